"""One rank that counts what it owns of a student at every stage of ZeRO, and of a teacher."""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def watched(model: torch.nn.Module, offload: Any) -> list[int]:
    """Return a list to which every fetch of weights adds how many numbers are whole by then."""
    counts: list[int] = []
    for name in ("pre_sub_module_forward_function", "pre_sub_module_backward_function"):
        fetch = getattr(offload, name)

        def noting(module: torch.nn.Module, fetch: Callable[[object], None] = fetch) -> None:
            fetch(module)
            held: Any = list(model.parameters())
            counts.append(sum(p.ds_numel for p in held if p.ds_status.name == "AVAILABLE"))

        setattr(offload, name, noting)
    return counts


def of_student(folder: str, stage: str) -> dict[str, int]:
    """Count before and after a step, when gradients are there and when they are not."""
    before = live_bytes()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    numbers = sum(p.numel() for p in model.parameters())
    engine = holding_of(stage)(Accelerator(cpu=True), {"student": model}, RUN)
    ids = torch.randint(5, 60, (2, 8))
    gathered = watched(model, engine._zero.parameter_offload) if stage == "zero3" else [0]
    # What comes when is known from the third step on, and then fetched ahead.
    for _ in range(4):
        loss = model(input_ids=ids).logits.square().sum()
        engine.backward(loss)
        del loss
        with_gradients = live_bytes() - before
        engine.step(1e-3, None, 1.0)
    after = live_bytes() - before
    engine.close()
    return {
        "numbers": numbers,
        "gradients": with_gradients - after,
        "kept": after,
        "gathered": 4 * max(gathered),
    }


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
