"""The whole way to int8 on a real fine-tuned model and its real dev data."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from toolchain.distill.surgery.fake_int8 import Rounding
from toolchain.export.formats.onnx import export
from toolchain.optimize.precisions.int8 import write
from toolchain.optimize.simplify import simplify
from toolchain.steps.aware import rounding_of

ROWS = 120


@pytest.mark.shared
def test_a_real_classifier_stays_itself_on_the_way_to_int8(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "minilm-l6-sst2"
    lines = (shared / "data" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines[1 : ROWS + 1]), strict=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    raw, fast, small = (tmp_path / f"{name}.onnx" for name in ("raw", "fast", "small"))
    export(model, raw)
    assert [fact.changed for fact in simplify(raw, fast)] == [1, 6, 1, 0]
    write(fast, small)
    assert small.stat().st_size * 3.5 < fast.stat().st_size

    feeds = [tokenizer(text, return_tensors="np") for text in texts]
    with torch.no_grad():
        expected = np.concatenate(
            [model(**{k: torch.from_numpy(v) for k, v in f.items()}).logits.numpy() for f in feeds]
        )
    found = {path: _logits(path, feeds) for path in (raw, fast, small)}
    np.testing.assert_allclose(found[raw], expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found[fast], expected, atol=1e-5, rtol=0)
    decisions = expected.argmax(axis=1)
    assert (decisions == np.array(labels, dtype=np.int64)).mean() > 0.85
    assert (found[small].argmax(axis=1) == decisions).mean() >= 0.97
    lost = np.abs(found[small] - expected).mean()
    assert lost < 0.2

    # Trained for int8, it would compute what that file computes: in one padded batch, row by row.
    Rounding(rounding_of(folder, fast, "classify"), model)
    with torch.no_grad():
        rounded = model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.numpy()
    off = np.abs(rounded - found[small])
    # In some rows a number lies at a half of a step, falls to the other side, and others follow.
    assert np.median(off) < 1e-4
    assert off.mean() < 0.2 * lost


def _logits(path: Path, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return np.concatenate([session.run(None, {k: f[k] for k in names})[0] for f in feeds])
