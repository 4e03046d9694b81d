"""Hooks on a real model keep what eager attention and output_hidden_states say."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from toolchain.distill import extract
from toolchain.distill.capture import Recorder, sparing
from toolchain.distill.extract import Request
from toolchain.models.checkpoint import inspect


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (3, 9), generator=g)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def everything(layers: int) -> set[Request]:
    kinds = ("hidden", "q", "k", "v")
    return {Request("emb")} | {Request(k, n) for k in kinds for n in range(1, layers + 1)}  # type: ignore[arg-type]


def test_hidden_states_and_attention_equal_those_of_the_eager_model(
    teacher_folder: Path, inputs: dict[str, torch.Tensor]
) -> None:
    found = inspect(str(teacher_folder))
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    eager = AutoModelForSequenceClassification.from_pretrained(
        teacher_folder, attn_implementation="eager"
    ).eval()
    recorder = Recorder(model, found.family, found.spec, everything(found.spec.layers))
    with torch.no_grad(), recorder:
        seen = recorder.take(model(**inputs).logits)
        told = eager(**inputs, output_hidden_states=True, output_attentions=True)
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(seen.get(extract.emb, 0), told.hidden_states[0])
    for layer in range(1, found.spec.layers + 1):
        hidden = seen.get(extract.hidden, layer)
        torch.testing.assert_close(hidden[mask], told.hidden_states[layer][mask])
        scores = seen.get(extract.attn_scores, layer)
        probabilities = scores.masked_fill(~mask[:, None, None, :], -1e30).softmax(-1)
        torch.testing.assert_close(probabilities, told.attentions[layer - 1], atol=1e-6, rtol=1e-4)


def test_only_what_was_asked_for_is_kept_and_hooks_go_away(
    teacher_folder: Path, inputs: dict[str, torch.Tensor]
) -> None:
    found = inspect(str(teacher_folder))
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    recorder = Recorder(model, found.family, found.spec, {Request("v", 2), Request("logits")})
    with recorder:
        hooked = [m for m in model.modules() if m._forward_hooks]
        seen = recorder.take(model(**inputs).logits)
    assert len(hooked) == 1
    assert seen.get(extract.v, 2).shape == (3, 9, found.spec.width)
    with pytest.raises(KeyError):
        seen.get(extract.v, 1)
    assert not any(m._forward_hooks for m in model.modules())


def test_the_models_attention_stays_fused(teacher_folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("asked", "computed"),
    [
        ({Request("logits"), Request("pooled"), Request("hidden", 1)}, 1),
        ({Request("hidden", 2)}, 9),
        ({Request("q", 2)}, 9),
    ],
)
def test_of_the_last_block_only_what_is_read_is_computed(
    teacher_folder: Path, inputs: dict[str, torch.Tensor], asked: set[Request], computed: int
) -> None:
    found = inspect(str(teacher_folder))
    spec = found.spec.reshaped(layers=2)
    model = AutoModelForSequenceClassification.from_pretrained(
        teacher_folder, num_hidden_layers=2
    ).eval()
    heights: list[int] = []
    model.get_submodule("bert.encoder.layer.1").register_forward_hook(
        lambda *args: heights.append(args[2].shape[1])
    )

    def logits_and_gradients() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().sum().backward()
        return [logits, *(p.grad for p in model.parameters() if p.grad is not None)]

    whole = logits_and_gradients()
    with sparing(model, found.family, spec, frozenset(asked)):
        spared = logits_and_gradients()
    assert heights == [9, computed]
    assert len(spared) == len(whole)
    for a, b in zip(spared, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
