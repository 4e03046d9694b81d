"""What we export, opened by others: optimum's ORTModel in the compat environment."""

import importlib.util
from pathlib import Path

import pytest
import torch

from toolchain.__main__ import main


def optimum_is_there() -> bool:
    try:
        return importlib.util.find_spec("optimum.onnxruntime") is not None
    except ModuleNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not optimum_is_there(), reason="needs optimum-onnx, which `make compat` installs"
)


@pytest.fixture(scope="module")
def exported(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    assert main(["export", str(teacher_folder), "-o", str(root / "onnx")]) == 0
    assert main(["quantize", str(root / "onnx"), "-o", str(root / "int8")]) == 0
    return root


@pytest.mark.parametrize(
    ("folder", "file", "tolerance"),
    [("onnx", "model.onnx", 1e-4), ("int8", "model_quantized.onnx", 0.5)],
)
def test_optimum_loads_the_file_and_computes_the_same(
    exported: Path, teacher_folder: Path, folder: str, file: str, tolerance: float
) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / folder)
    batch = tokenizer(
        ["turn on the lamp", "a little less heat for me today please"],
        padding=True,
        return_tensors="pt",
    )
    theirs = ORTModelForSequenceClassification.from_pretrained(
        exported / folder, subfolder="onnx", file_name=file
    )
    ours = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    with torch.inference_mode():
        expected = ours(**batch).logits
    found = theirs(**batch).logits
    assert (found - expected).abs().max() <= tolerance
    assert theirs.config.id2label == ours.config.id2label
