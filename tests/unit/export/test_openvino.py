"""The OpenVINO format on a tiny real model: parity, precisions, what its files say."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import sentences
from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.exporter import Source, exporters
from toolchain.export.formats.onnx import export
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.runtimes.runtime import runtimes

pytest.importorskip("openvino", reason="the extra [openvino] is not installed")
pytest.importorskip("nncf", reason="the extra [openvino] is not installed")


@pytest.fixture(scope="module")
def feeds(teacher_folder: Path) -> list[dict[str, NDArray[np.int64]]]:
    tokenizer = load_tokenizer(teacher_folder)
    return [
        {name: np.array(ids, dtype=np.int64) for name, ids in tokenizer([text]).items()}
        for text, _ in sentences(24, seed=3)
    ]


@pytest.fixture(scope="module")
def folder(
    teacher_folder: Path,
    feeds: list[dict[str, NDArray[np.int64]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The teacher as ONNX and in every precision of OpenVINO."""
    out = tmp_path_factory.mktemp("openvino")
    model = load_model(teacher_folder, "classify")
    export(model, out / "model.onnx")
    exporter = exporters.get("openvino")
    source = Source(model=lambda: model, onnx=out / "model.onnx", texts=feeds[:12], max_tokens=64)
    for precision, file in exporter.files.items():
        exporter.write(source, out / file, precision)
    return out


def answers(
    path: Path, feeds: list[dict[str, NDArray[np.int64]]], runtime: str = "openvino"
) -> NDArray[np.float32]:
    session = runtimes.get(runtime)(path, threads=1, provider="CPUExecutionProvider")
    found = np.concatenate([session.run(feed) for feed in feeds])
    session.close()
    return found


def test_each_precision_answers_like_the_onnx_file(
    folder: Path, feeds: list[dict[str, NDArray[np.int64]]]
) -> None:
    expected = answers(folder / "model.onnx", feeds, "onnxruntime")
    for precision, (limit, least) in {
        "fp32": (1e-5, 0),
        "bf16": (0.2, 0),
        "int8": (0.5, 1e-5),
    }.items():
        found = answers(folder / exporters.get("openvino").files[precision], feeds)
        worst = np.abs(found - expected).max()
        assert least <= worst < limit, precision
        cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine > 0.99


def test_padding_and_batches_change_nothing(
    folder: Path, feeds: list[dict[str, NDArray[np.int64]]]
) -> None:
    path = folder / "openvino/openvino_model.xml"
    width = max(feed["input_ids"].shape[1] for feed in feeds) + 3
    batch = {
        name: np.concatenate(
            [np.pad(feed[name], ((0, 0), (0, width - feed[name].shape[1]))) for feed in feeds]
        )
        for name in feeds[0]
    }
    np.testing.assert_allclose(answers(path, [batch]), answers(path, feeds), atol=1e-5)


def test_a_file_names_its_precision_and_the_digest_of_its_weights(folder: Path) -> None:
    for precision, file in exporters.get("openvino").files.items():
        info = ET.parse(folder / file).getroot().find("rt_info/toolchain")
        assert info is not None
        said = {child.tag: child.attrib["value"] for child in info}
        weights = (folder / file).with_suffix(".bin").read_bytes()
        digest = sha256(weights).hexdigest()
        expected = {"precision": precision, "weights_sha256": digest, "max_tokens": "64"}
        assert said == expected


def test_the_same_model_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    exporter = exporters.get("openvino")
    source = Source(
        model=lambda: pytest.fail("not needed"), onnx=folder / "model.onnx", max_tokens=64
    )
    for precision in ("fp32", "bf16"):
        again = tmp_path / f"{precision}.xml"
        exporter.write(source, again, precision)
        first = (folder / exporter.files[precision]).with_suffix(".bin")
        assert again.with_suffix(".bin").read_bytes() == first.read_bytes()


def test_int8_without_texts_is_refused(folder: Path, tmp_path: Path) -> None:
    source = Source(model=lambda: pytest.fail("not needed"), onnx=folder / "model.onnx")
    with pytest.raises(UsageError, match="looks at texts"):
        exporters.get("openvino").write(source, tmp_path / "model.xml", "int8")


def test_what_cannot_be_opened_is_named(folder: Path, tmp_path: Path) -> None:
    open_session = runtimes.get("openvino")
    cpu = "CPUExecutionProvider"
    with pytest.raises(UsageError, match="no such file"):
        open_session(tmp_path / "model.xml", threads=1, provider=cpu)
    whole = folder / "openvino/openvino_model.xml"
    with pytest.raises(UsageError, match="no provider"):
        open_session(whole, threads=1, provider="CUDAExecutionProvider")
    lone = tmp_path / "lone.xml"
    lone.write_bytes(whole.read_bytes())
    with pytest.raises(IntegrityError, match=r"lone.bin, are missing"):
        open_session(lone, threads=1, provider=cpu)
    lone.with_suffix(".bin").write_bytes(whole.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="not a whole OpenVINO model"):
        open_session(lone, threads=1, provider=cpu)
    session = open_session(whole, threads=1, provider=cpu)
    with pytest.raises(UsageError, match="asks for"):
        session.run({"input_ids": np.ones((1, 4), np.int64)})
    with pytest.raises(StepError, match="at most 64 tokens, found 65"):
        session.run(
            {
                name: np.ones((1, 65), np.int64)
                for name in ("input_ids", "attention_mask", "token_type_ids")
            }
        )
    with pytest.raises(UsageError, match="without a cache"):
        session.generate({"input_ids": np.ones((1, 4), np.int64)}, 2)


def test_nobody_is_told_that_nncf_is_used() -> None:
    code = (
        "from toolchain.export.formats import openvino\n"
        "openvino._without_telemetry()\n"
        "from nncf.telemetry.wrapper import telemetry\n"
        "print(type(telemetry).__name__)"
    )
    # Under pytest it is silent by itself.
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "MagicMock"
