"""Causal language models with their cache: one file reads prompts and goes on token by token."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import PreTrainedModel

from tests.unit.models import zoo
from toolchain.export.decoder import Cache, Decoder, cache_of
from toolchain.export.exporter import Signature
from toolchain.export.formats.onnx import export
from toolchain.optimize.simplify import simplify

# Grouped queries, fused projections, norms of heads with a width of their own.
FAMILIES = ["llama tied", "gpt2", "qwen3"]
# Rows, new tokens, tokens before.
SHAPES = [(1, 1, 0), (1, 7, 0), (3, 4, 0), (1, 1, 1), (1, 1, 9), (2, 1, 6), (3, 4, 5)]

Exported = tuple[str, PreTrainedModel, Path, Signature]


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = zoo.make(request.param, "causal_lm")
    folder = tmp_path_factory.mktemp("decoder")
    signature = export(model, folder / "plain.onnx")
    simplify(folder / "plain.onnx", folder / "model.onnx")
    return request.param, model, folder / "model.onnx", signature


def inputs(cache: Cache, rows: int, new: int, before: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows + 10 * new + 100 * before)
    mask = torch.ones(rows, before + new, dtype=torch.int64)
    if rows > 1:
        # On the right, as batches of prompts are padded, else far behind.
        mask[1, -1 if not before else 0] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
    ids = torch.randint(3, zoo.VOCAB, (rows, new), generator=generator)
    past = (
        torch.randn(rows, cache.heads, before, cache.width, generator=generator)
        for _ in cache.inputs
    )
    return ids, mask, positions, *past


@pytest.mark.parametrize(("rows", "new", "before"), SHAPES)
def test_logits_and_cache_are_those_of_the_model(
    exported: Exported, rows: int, new: int, before: int
) -> None:
    _, model, path, signature = exported
    tensors = inputs(cache_of(model), rows, new, before)
    with torch.no_grad():
        expected = Decoder(model)(*tensors)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {n: t.numpy() for n, t in zip(signature.inputs, tensors, strict=True)}
    found = session.run(list(signature.outputs), feed)
    assert np.abs(expected[0].numpy()).max() > 0.1
    for name, ours, theirs in zip(signature.outputs, found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=3e-5, rtol=0, err_msg=name)


def test_the_names_and_axes_are_those_of_optimum(exported: Exported) -> None:
    _, model, path, signature = exported
    graph = onnx.load(path).graph
    assert [v.name for v in graph.input][:4] == [
        "input_ids", "attention_mask", "position_ids", "past_key_values.0.key",
    ]  # fmt: skip
    assert [v.name for v in graph.output][:3] == ["logits", "present.0.key", "present.0.value"]
    cache = cache_of(model)
    assert len(graph.input) == 3 + 2 * cache.layers == 3 + len(graph.output) - 1
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        assert tuple(d.dim_param for d in dims) == signature.dynamic_axes[value.name]
    (key,) = (v for v in graph.input if v.name == "past_key_values.0.key")
    sizes = [d.dim_value for d in key.type.tensor_type.shape.dim]
    assert sizes == [0, cache.heads, 0, cache.width]


def test_tokens_one_by_one_give_what_a_whole_prompt_gives(exported: Exported) -> None:
    _, model, path, _ = exported
    cache = cache_of(model)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = np.arange(5, 14).reshape(1, -1)
    empty = np.zeros((1, cache.heads, 0, cache.width), np.float32)
    names = ["logits", *cache.outputs]

    def ask(start: int, end: int, past: list[np.ndarray]) -> list[np.ndarray]:
        feed = {
            "input_ids": ids[:, start:end],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end).reshape(1, -1),
            **dict(zip(cache.inputs, past, strict=True)),
        }
        return list(session.run(names, feed))

    whole = ask(0, 9, [empty] * len(cache.inputs))
    logits, *past = ask(0, 4, [empty] * len(cache.inputs))
    steps = [logits]
    for place in range(4, 9):
        logits, *past = ask(place, place + 1, past)
        steps.append(logits)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole[0], atol=2e-5, rtol=0)


def test_a_tied_head_is_held_once(exported: Exported) -> None:
    name, model, path, _ = exported
    held = sum(t.ByteSize() for t in onnx.load(path).graph.initializer)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert held < weights + 4000, name
