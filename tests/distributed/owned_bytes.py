"""One rank that counts what it owns of a student at every stage of ZeRO, and of a teacher."""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification

from tests.distributed.one_rank import RUN, holding_of
from toolchain.models.checkpoint import inspect
from toolchain.scale.teachers import ShardedTeacher


def live_bytes() -> int:
    """Bytes of all storages that tensors of this process stand on."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def of_student(folder: str, stage: str) -> dict[str, int]:
    """Count before and after a step, when gradients are there and when they are not."""
    before = live_bytes()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    numbers = sum(p.numel() for p in model.parameters())
    engine = holding_of(stage)(Accelerator(cpu=True), {"student": model}, RUN)
    ids = torch.randint(5, 60, (2, 8))
    for _ in range(2):
        loss = model(input_ids=ids).logits.square().sum()
        engine.backward(loss)
        del loss
        with_gradients = live_bytes() - before
        engine.step(1e-3, None, 1.0)
    after = live_bytes() - before
    engine.close()
    return {"numbers": numbers, "gradients": with_gradients - after, "kept": after}


def of_teacher(folder: str) -> dict[str, int]:
    before = live_bytes()
    found = inspect(folder)
    teacher = ShardedTeacher(
        folder=found.root, family=found.family, spec=found.spec, placement="zero3"
    )
    opened = teacher.open(frozenset(), device=torch.device("cpu"), bf16=False)
    kept = live_bytes() - before
    opened.close()
    return {"numbers": found.spec.params(), "kept": kept}


def main(folder: str, out: str) -> None:
    torch.set_num_threads(1)
    Accelerator(cpu=True)
    counted = {stage: of_student(folder, stage) for stage in ("zero1", "zero2", "zero3")}
    counted["teacher"] = of_teacher(folder)
    Path(f"{out}.{os.environ.get('RANK', '0')}").write_text(json.dumps(counted))
    if torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
