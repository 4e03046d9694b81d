"""What we export, opened by optimum, and what optimum exports, proved by us: where it is there."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    PreTrainedModel,
)

from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.export.answers import ENDS
from toolchain.export.exporter import Source, exporters
from toolchain.models.outputs import logits_of
from toolchain.report.report import Report
from toolchain.runtimes.runtime import runtimes


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


def test_its_own_files_are_a_format_that_is_proved_timed_and_bundled(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    output, target = tmp_path / "build", tmp_path / "theirs.yaml"
    target.write_text(
        "name: theirs\nsummary: a test's machine\nfidelity: none\n"
        "runtime: {name: onnxruntime, threads: 1}\n"
        "accepts: {formats: [optimum], precisions: [int8, fp32]}\n"
        "budget: {memory_bytes: 1000000000}\n"
    )
    arguments = [
        "compress", "--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1",
        "--target", "host", "--target", str(target), "--no-baseline", "-o", str(output),
        "--max-steps", "20", "threads=1", "benchmark.min_seconds=0.05", "benchmark.min_runs=20",
        "benchmark.rounds=2", "benchmark.tokens=[8]", "quantize.aware=never",
        "formats=[auto]", "precisions=[int8,fp32]",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = Report.from_json(json.loads((output / "report" / "report.json").read_text()))
    for precision in ("fp32", "int8"):
        model = report.model(f"student-optimum-{precision}")
        assert model.parity is not None
        assert model.parity.against == ("student" if precision == "fp32" else "student-onnx")
        assert any(gate.model == model.name for gate in report.gates)
    fp32 = report.model("student-optimum-fp32")
    assert fp32.parity is not None
    assert fp32.parity.max_abs <= 1e-4
    assert {entry.runtime for entry in fp32.latency} == {"onnxruntime"}
    bundle = output / "bundles" / "theirs"
    assert selftest(bundle) == []
    assert (bundle / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        (BertForTokenClassification, ("logits",)),
        (BertForMaskedLM, ("logits",)),
        (BertForQuestionAnswering, ENDS),
    ],
)
def test_a_model_that_answers_per_token_is_exported_too(
    kind: type[PreTrainedModel], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40,
        num_labels=2 if outputs == ENDS else 3,
    )  # fmt: skip
    model = kind(config).eval()
    out = tmp_path / "optimum" / "model.onnx"
    signature = exporters.get("optimum").write(Source(model=lambda: model), out, "fp32")
    assert signature.outputs == outputs
    ids = torch.arange(1, 8)[None]
    feed = {name: torch.ones_like(ids).numpy() for name in signature.inputs}
    feed["input_ids"], feed["token_type_ids"] = ids.numpy(), 0 * ids.numpy()
    session = runtimes.get("onnxruntime")(out, threads=1, provider="CPUExecutionProvider")
    with torch.inference_mode():
        expected = logits_of(model(input_ids=ids)).numpy()
    found = session.run(feed)
    assert found.shape == expected.shape
    assert abs(found - expected).max() < 1e-4
