"""Language models on the whole road: masked ones here."""

import json
import random
import subprocess
import sys
from pathlib import Path

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


def test_a_masked_language_model_goes_the_whole_road(raw: Path, tmp_path: Path) -> None:
    teacher, out = make_teacher(tmp_path / "teacher", head=False), tmp_path / "out"
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(teacher)).save_pretrained(teacher)
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
