"""One rank that reads cut teachers and runs blocks of theirs, beside the same ones whole."""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from tests.unit.models import zoo
from tests.unit.scale.test_stream import assert_same, requests_of
from toolchain.data.batching import Batch
from toolchain.distill.extract import Request
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model
from toolchain.models.outputs import logits_of
from toolchain.scale.cut import CutModel
from toolchain.spec import Task

CPU = torch.device("cpu")
FAMILIES: list[tuple[str, Task]] = [
    ("bert", "classify"), ("bert", "mask_lm"), ("roberta", "classify"), ("distilbert", "tag"),
    ("electra", "classify"), ("mpnet", "classify"), ("mpnet", "mask_lm"),
    ("deberta-v3", "classify"), ("deberta-v2", "mask_lm"), ("deberta narrow", "tag"),
    ("gpt2", "classify"), ("gpt2", "causal_lm"), ("llama", "classify"), ("llama", "causal_lm"),
    ("llama tied", "causal_lm"), ("mistral", "tag"), ("qwen2", "classify"), ("qwen3", "causal_lm"),
]  # fmt: skip


def batch(name: str, task: Task, rank: int) -> Batch:
    # Ranks' batches differ in rows and in tokens.
    inputs = zoo.batch(name, 3 + rank, 6 + 3 * rank)
    if name.startswith("deberta"):
        # Its padding looks at all that is there, with no weight less for padding of other ranks.
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    labels = torch.ones(3 + rank, dtype=torch.long)
    if task in ("tag", "mask_lm", "causal_lm"):
        labels = torch.where(inputs["attention_mask"] > 0, 1, -100)
    return Batch(inputs, labels, tuple(range(3 + rank)))


def compare(root: Path, name: str, task: Task, rank: int) -> dict[str, object]:
    found = inspect(root / f"{name}-{task}".replace(" ", "-"))
    requests = requests_of(name, task)
    patches = {} if task == "mask_lm" else {Request("hidden", 2): lambda x: 0.5 * x}
    here, numbers = batch(name, task, rank), {}
    for bf16 in (False, True):
        model = load_model(found.root, task)
        whole = TrainingModel(model=model, family=found.family, spec=found.spec)
        cut = CutModel(folder=found.root, family=found.family, spec=found.spec)
        ours = cut.open(requests, device=CPU, bf16=bf16)
        theirs = OnlineTeacher(whole, requests, device=CPU, bf16=bf16)
        for patch in ({}, patches):
            one, other = ours.captures(here, patch), theirs.captures(here, patch)
            if not bf16:
                assert_same(one, other, requests, scores=name in zoo.SCORED, within=1e-4)
                continue
            for request in requests:
                # Sums over ranks are rounded to bf16, and so are the weights of norms.
                a, b = (x.tensor(request).flatten() for x in (one, other))
                assert torch.cosine_similarity(a, b, dim=0) > 0.98, (name, request)
        ours.close()
        theirs.close()
        if not bf16:
            held = cut.held[False].parameters()
            parts = [p.to_local() if isinstance(p, DTensor) else p for p in held]
            numbers = {"owned": sum(p.numel() for p in parts)}
    return numbers


def compare_blocks(root: Path, name: str, task: Task, rank: int) -> None:
    """A whole model whose third block is the cut one's says, and learns, what it does by itself."""
    found = inspect(root / f"{name}-{task}".replace(" ", "-"))
    model = load_model(found.root, task).eval()
    model.config.use_cache = False
    cut = CutModel(folder=found.root, family=found.family, spec=found.spec).taken(CPU)
    cut.model.requires_grad_(False)
    here = batch(name, task, rank)
    path = found.family.block_prefix(3).removesuffix(".")
    blocks = path.removesuffix(".2")
    ours, theirs = model.get_submodule(path), cut.model.get_submodule(path)

    def learned() -> list[torch.Tensor]:
        said = logits_of(model(**here.inputs))[here.mask_BN.bool() if task != "classify" else ...]
        model.zero_grad()
        (said * torch.arange(1.0, said.shape[-1] + 1).cos()).sum().backward()
        # What is outside of blocks is the teacher's, and rests while blocks of it stand in.
        others = [block for block in model.get_submodule(blocks).children() if block is not ours]
        grads = [p.grad for block in others for p in block.parameters()]
        return [said.detach(), *(grad.clone() for grad in grads if grad is not None)]

    alone = learned()
    ours.forward = lambda *args, **kwargs: cut.blocks([theirs], args, kwargs)
    cut.blocks.before(here.inputs)
    beside = learned()
    assert all(p.grad is None for p in ours.parameters())
    largest = max(float(tensor.abs().max()) for tensor in alone)
    for one, other in zip(beside, alone, strict=True):
        # Gradients of a thousand stand beside some that are rounding alone.
        assert (one - other).abs().max() <= 1e-5 * largest, (name, task)


def main(root: str, out: str) -> None:
    torch.set_num_threads(1)
    Accelerator(cpu=True)
    rank = int(os.environ["RANK"])
    counted = {f"{n} {t}": compare(Path(root), n, t, rank) for n, t in FAMILIES}
    for name, task in FAMILIES:
        compare_blocks(Path(root), name, task, rank)
    Path(f"{out}.{rank}").write_text(json.dumps(counted))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
