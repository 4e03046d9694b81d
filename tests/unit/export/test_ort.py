"""ORT format: the same answers, no operator of one kind of CPU, the lists of what a build needs."""

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.tools.reduced_build_config_parser import parse_config

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.exporter import Source, exporters
from toolchain.models.loading import load_model
from toolchain.onnx_pair import ONE_FILE, data_of
from toolchain.optimize.precision import precisions
from toolchain.optimize.simplify import simplify
from toolchain.runtimes.runtime import runtimes

PROVIDER = "CPUExecutionProvider"


def no_model() -> None:
    raise AssertionError("the ONNX file is all that is needed")


def write(onnx: Path, out: Path, precision: str = "fp32") -> None:
    source = Source(model=no_model, onnx=onnx)  # type: ignore[arg-type]
    exporters.get("ort").write(source, out, precision)


@pytest.fixture(scope="module")
def onnx_files(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny classifier as ONNX, in fp32 and int8."""
    folder = tmp_path_factory.mktemp("ort")
    plain = folder / "plain.onnx"
    model = load_model(teacher_folder, "classify")
    exporters.get("onnx").write(Source(model=lambda: model), plain, "fp32")
    made = {"fp32": folder / "model.onnx", "int8": folder / "model_quantized.onnx"}
    simplify(plain, made["fp32"])
    precisions.get("int8").write(made["fp32"], made["int8"], ())
    return made


def answers(path: Path, name: str = "onnxruntime") -> np.ndarray:
    generator = np.random.default_rng(0)
    found = []
    session = runtimes.get(name)(path, threads=1, provider=PROVIDER)
    for tokens in (1, 5, 40):
        ids = generator.integers(0, 60, (1, tokens))
        ones = np.ones_like(ids)
        feed = {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones - 1}
        found.append(session.run(feed))
    session.close()
    return np.concatenate(found)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_answers_like_the_onnx_file_it_was_made_from(
    precision: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "ort" / "model.ort"
    write(onnx_files[precision], out, precision)
    np.testing.assert_allclose(answers(out), answers(onnx_files[precision]), rtol=0, atol=1e-6)


def test_written_twice_it_answers_and_lists_the_same(
    onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "a" / "model.ort", tmp_path / "b" / "model.ort"
    for out in (first, second):
        write(onnx_files["int8"], out, "int8")
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == [
        "model.ort",
        "model.required_operators.config",
        "model.required_operators_and_types.config",
    ]
    for name in names[1:]:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name
    # The runtime writes its tables in another order each time: neither bytes nor padding are equal.
    np.testing.assert_array_equal(answers(first), answers(second))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_lists_are_what_a_build_reads_and_name_no_cpu(
    precision: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "model.ort"
    write(onnx_files[precision], out, precision)
    plain, typed = (out.with_suffix(suffix) for suffix in exporters.get("ort").beside)
    operators, _ = parse_config(str(plain))
    domains = {domain: set().union(*by.values()) for domain, by in operators.items()}
    # com.microsoft.nchwc and com.ms.internal.nhwc are laid out for one kind of CPU.
    assert set(domains) <= {"ai.onnx", "com.microsoft"}
    product = {"fp32": "Gemm", "int8": "DynamicQuantizeMatMul"}[precision]
    assert product in set().union(*domains.values())
    _, types = parse_config(str(typed), enable_type_reduction=True)
    assert types is not None
    assert "float" in typed.read_text()
    for text in (plain.read_text(), typed.read_text()):
        assert str(tmp_path) not in text
        assert text.startswith("# What model.ort runs.\n")


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "half"])
def test_a_damaged_file_is_refused_in_one_sentence(
    kind: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "model.ort"
    write(onnx_files["fp32"], out)
    content = out.read_bytes()
    damaged = {
        "text": b"no model",
        "empty": b"",
        "cut": content[:-100],
        "half": content[: len(content) // 2],
    }
    out.write_bytes(damaged[kind])
    with pytest.raises(IntegrityError, match="not a whole ORT model") as refusal:
        answers(out)
    assert "\n" not in refusal.value.message


def test_what_cannot_be_converted_leaves_nothing(
    onnx_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.ort"
    with pytest.raises(UsageError, match="is made from the ONNX file, found none"):
        exporters.get("ort").write(Source(model=no_model), out, "fp32")  # type: ignore[arg-type]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_files["fp32"].read_bytes()[:-50])
    with pytest.raises(StepError, match="onnxruntime cannot convert it"):
        write(broken, out)
    monkeypatch.setattr("toolchain.export.formats.ort._MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"one \.ort file holds at most 1000"):
        write(onnx_files["fp32"], out)
    assert not out.exists()


def test_weights_beside_the_onnx_file_are_in_the_file(
    onnx_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONE_FILE, "20000")
    pair, out = tmp_path / "pair.onnx", tmp_path / "moved" / "model.ort"
    simplify(onnx_files["fp32"], pair)
    write(pair, out)
    data_of(pair).unlink()
    np.testing.assert_allclose(answers(out), answers(onnx_files["fp32"]), rtol=0, atol=1e-6)
