"""Heads that answer per token, of encoders and decoders: the same answers at every real token."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from tests.unit.models import zoo
from toolchain.export.formats.onnx import export
from toolchain.models.outputs import logits_of
from toolchain.optimize.simplify import simplify
from toolchain.runtimes.adapters.onnxruntime import open_session
from toolchain.runtimes.adapters.pytorch import open_session as open_torch


@pytest.mark.parametrize(
    ("name", "task"), [("distilbert", "tag"), ("electra", "mask_lm"), ("llama", "tag")]
)
def test_real_tokens_have_the_models_answers(name: str, task: str, tmp_path: Path) -> None:
    model = zoo.make(name, task)  # type: ignore[arg-type]
    signature = export(model, tmp_path / "plain.onnx")
    assert signature.dynamic_axes["logits"] == ("batch", "sequence", "")
    simplify(tmp_path / "plain.onnx", tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows, tokens in ((3, 9), (3, 17)):
        batch = zoo.batch(name, rows=rows, tokens=tokens)
        real = batch["attention_mask"].numpy().astype(bool)
        feed = {
            n: batch[n].numpy() if n in batch else np.zeros_like(real, np.int64)
            for n in signature.inputs
        }
        (found,) = session.run(None, feed)
        with torch.no_grad():
            expected = model(**{n: torch.from_numpy(v) for n, v in feed.items()}).logits.numpy()
        assert np.abs(expected[real]).max() > 0.1
        np.testing.assert_allclose(found[real], expected[real], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "distilbert", "mobilebert", "deberta-v3"])
def test_both_ends_of_an_answer_have_outputs_of_their_own(name: str, tmp_path: Path) -> None:
    model = zoo.make(name, "qa")
    signature = export(model, tmp_path / "plain.onnx")
    assert signature.outputs == ("start_logits", "end_logits")
    assert signature.dynamic_axes["end_logits"] == ("batch", "sequence")
    simplify(tmp_path / "plain.onnx", tmp_path / "model.onnx")
    batch = zoo.batch(name, rows=3, tokens=11)
    real = batch["attention_mask"].numpy().astype(bool)
    feed = {
        n: batch[n].numpy() if n in batch else np.zeros_like(real, np.int64)
        for n in signature.inputs
    }
    session = open_session(tmp_path / "model.onnx", threads=1, provider="CPUExecutionProvider")
    found = session.run(feed)
    with torch.no_grad():
        expected = logits_of(model(**{n: torch.from_numpy(v) for n, v in feed.items()})).numpy()
    assert found.shape == (3, 11, 2)
    np.testing.assert_allclose(found[real], expected[real], atol=2e-5, rtol=0)
    folder = zoo.save(model, tmp_path / "saved")
    other = open_torch(folder, threads=1, provider="CPUExecutionProvider")
    np.testing.assert_allclose(other.run(feed)[real], expected[real], atol=2e-5, rtol=0)
