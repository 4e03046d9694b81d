"""A teacher's matrices are cast once, and nothing it says changes by that."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from toolchain.data.batching import Batch
from toolchain.distill.extract import Request
from toolchain.distill.optimizer import clip
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.models.family import families


def bert() -> tuple[torch.nn.Module, str, str]:
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config), "bert", "classify"


def gpt2() -> tuple[torch.nn.Module, str, str]:
    return (
        GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2)),
        "gpt2",
        "causal_lm",
    )


@pytest.mark.parametrize("make", [bert, gpt2])
def test_casting_once_says_what_casting_in_every_pass_says(make) -> None:
    torch.manual_seed(0)
    model, family, task = make()
    model.eval()
    found = families.get(family)
    spec = found.spec(model.config.to_dict(), task=task, num_labels=2)
    ids = torch.randint(5, 40, (3, 7))
    labels = torch.zeros(3, dtype=torch.long) if task == "classify" else ids
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, (0, 1, 2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(**batch.inputs).logits.float()
    teacher = OnlineTeacher(
        TrainingModel(model=model, family=found, spec=spec),  # type: ignore[arg-type]
        [Request("hidden", 2), Request("logits")],
        device=torch.device("cpu"),
        bf16=True,
    )
    logits = teacher.captures(batch, {}).tensor(Request("logits"))
    teacher.close()
    assert torch.equal(logits, expected.reshape(logits.shape))
    assert any(p.dtype == torch.bfloat16 for p in model.parameters())
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    assert table.dtype == torch.float32


@pytest.mark.parametrize("size", [0.01, 10.0])
def test_clipping_is_that_of_torch(size: float) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(4)) for _ in range(2)] for _ in range(2))
    torch.manual_seed(0)
    for a, b in zip(ours, theirs, strict=True):
        a.grad = size * torch.randn(4)
        b.grad = a.grad.clone()
    clip(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
