"""Language models on the whole road: masked ones here."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.conftest import make_teacher
from tests.integration.test_tasks import LOOSE, STEPS, sentence
from toolchain.__main__ import main
from toolchain.bundle.check import selftest


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "raw.txt"
    lines = (" ".join(sentence(random.Random(i))) for i in range(300))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def report_of(build: Path) -> dict[str, dict[str, object]]:
    report = json.loads((build / "report" / "report.json").read_text())
    return {model["name"]: model for model in report["models"]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with its masked-language head."""
    folder = make_teacher(tmp_path_factory.mktemp("masked"), head=False)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def test_the_stages_one_after_another(
    teacher: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx, int8, bundle = tmp_path / "onnx", tmp_path / "int8", tmp_path / "bundle"
    where = ["--data", str(raw)]
    assert main(["export", str(teacher), "-o", str(onnx)]) == 0
    assert main(["quantize", str(onnx), "-o", str(int8)]) == 0
    proof = ["--against", str(teacher), *where, "-o", str(tmp_path / "proof")]
    assert main(["verify", str(onnx), *proof]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "proof" / "verify.json").read_text())
    assert found["parities"]["model"]["unit"] == "tokens"
    # A random model knows nothing: every token is as likely as any other.
    assert found["metrics"]["model"]["value"] == pytest.approx(np.log(len_of(teacher)), abs=0.5)
    assert main(["bundle", str(int8), *where, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    about = json.loads((bundle / "bundle.json").read_text())
    assert (about["task"], about["program"]["script"]) == ("mask_lm", "fill_mask.py")


def len_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


@pytest.mark.slow
def test_a_masked_language_model_goes_the_whole_road(
    teacher: Path, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = ["--data", str(raw), "data.task=mask_lm", "data.max_tokens=32"]
    words = ["compress", "--teacher", str(teacher), "-o", str(out), "--layers", "2"]
    assert main([*words, *data, *STEPS, *LOOSE]) == 0
    models = report_of(out)
    exported, int8 = models["student-onnx"], models["student-int8"]
    assert exported["parity"]["unit"] == "tokens"
    assert exported["parity"]["rows"] > 200
    assert exported["parity"]["max_abs"] <= 1e-4
    metric = exported["metric"]
    assert metric["name"] == "loss"
    assert metric["value"] == pytest.approx(models["student"]["metric"]["value"], abs=1e-5)
    assert set(metric["others"]) >= {"perplexity", "token_accuracy"}
    gates = json.loads((out / "report" / "report.json").read_text())["gates"]
    of_int8 = {gate["name"] for gate in gates if gate["model"] == "student-int8"}
    assert {"cosine", "max_drop", "smaller"} <= of_int8
    assert "agreement" not in of_int8
    # The embeddings are the head too, and are held once.
    weights = (out / "model.safetensors").stat().st_size
    assert exported["file_bytes"] < 1.3 * weights
    assert int8["file_bytes"] < exported["file_bytes"]
    folder = out / "bundles" / "host"
    assert selftest(folder) == []
    text = "please turn the [MASK] off now"
    ran = subprocess.run(
        [sys.executable, "-I", str(folder / "fill_mask.py"), "--json", text],
        capture_output=True, check=True,
    )  # fmt: skip
    ((first, *_),) = json.loads(ran.stdout)["gaps"]
    from transformers import pipeline

    best = pipeline("fill-mask", model=str(out), device="cpu")(text, top_k=3)
    assert first["token"] in [found["token_str"] for found in best]
    assert "pipeline_tag: fill-mask" in (out / "README.md").read_text()
