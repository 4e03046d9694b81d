"""The output folder is one that other programs know: it loads there as it is.

transformers.js needs node and a folder with its npm package, named by TRANSFORMERS_JS
(`npm install --ignore-scripts @huggingface/transformers@4.3.1`).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from toolchain.artifact import drafting
from toolchain.models.loading import load_tokenizer
from toolchain.steps.export import export, quantize

TEXTS = ["turn the lamp on", "caf\u00e9 MUSIC \U0001f600 please", "\u4e2d\u6587 a\u0101b"]
JS = os.environ.get("TRANSFORMERS_JS", "")


@pytest.fixture(scope="module")
def output(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, tokenizer and both ONNX files in the places of a finished run."""
    root = tmp_path_factory.mktemp("elsewhere")
    with drafting(root / "fp32", {}) as draft:
        export(draft, source=teacher_folder)
    with drafting(root / "int8", {}) as draft:
        quantize(draft, source=root / "fp32", precision="int8")
    shutil.copyfile(
        root / "int8/onnx/model_quantized.onnx", root / "fp32/onnx/model_quantized.onnx"
    )
    shutil.copyfile(teacher_folder / "model.safetensors", root / "fp32/model.safetensors")
    return root / "fp32"


def expected(output: Path) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    tokenizer = load_tokenizer(output)
    rows = [model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]
    return np.concatenate([row.softmax(dim=-1).detach().numpy() for row in rows])


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
@pytest.mark.skipif(not JS, reason="TRANSFORMERS_JS names no folder with transformers.js")
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("q8", 0.1)])
def test_transformers_js_classifies_with_it(output: Path, dtype: str, tolerance: float) -> None:
    script = Path(__file__).with_name("transformers_js.mjs")
    texts = json.dumps(TEXTS)
    command = ["node", str(script), str(output.parent), output.name, dtype, texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = AutoModelForSequenceClassification.from_pretrained(output).config.id2label
    for answer, row in zip(json.loads(done.stdout), expected(output), strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        probabilities = {names[number]: float(value) for number, value in enumerate(row)}
        assert scores == pytest.approx(probabilities, abs=tolerance)


def test_sentence_transformers_loads_it(output: Path) -> None:
    reason = "sentence-transformers is not installed"
    sentence_transformers = pytest.importorskip("sentence_transformers", reason=reason)
    model = sentence_transformers.CrossEncoder(str(output), device="cpu", local_files_only=True)
    pairs = [("turn the lamp on", "more heat"), ("caf\u00e9", "music")]
    found = model.predict(pairs, apply_softmax=True)
    own = AutoModelForSequenceClassification.from_pretrained(output).eval()
    tokenizer = load_tokenizer(output)
    inputs = tokenizer([list(pair) for pair in pairs], padding=True, return_tensors="pt")
    logits = own(**inputs).logits
    np.testing.assert_allclose(found, logits.softmax(dim=-1).detach().numpy(), atol=1e-5)
