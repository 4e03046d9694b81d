"""Where answers begin and end, in formats beside the ONNX file: both figures of every token."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.models import zoo
from toolchain.export.answers import ENDS
from toolchain.export.exporter import Source, exporters
from toolchain.export.formats.onnx import export
from toolchain.optimize.precisions import int8
from toolchain.optimize.simplify import simplify
from toolchain.runtimes.runtime import runtimes

CPU = "CPUExecutionProvider"


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["litert", "openvino", "ort"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("int8", 0.97)])
def test_both_ends_are_those_of_the_onnx_file(
    name: str, precision: str, least: float, tmp_path: Path
) -> None:
    exporter = exporters.get(name)
    for package in exporter.packages:
        pytest.importorskip(package, reason=f"the extra [{name}] is not installed")
    model = zoo.make("bert", "qa")
    export(model, tmp_path / "plain.onnx")
    simplify(tmp_path / "plain.onnx", tmp_path / "fp32.onnx")
    feeds = []
    for tokens in (5, 9, 17):
        batch = zoo.batch("bert", rows=3, tokens=tokens)
        ids = batch["input_ids"].numpy()
        mask = batch["attention_mask"].numpy()
        feeds.append(
            {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
    source = tmp_path / "fp32.onnx"
    if exporter.converts and precision == "int8":
        source = tmp_path / "int8.onnx"
        int8.write(tmp_path / "fp32.onnx", source)
    texts = [{n: v[row : row + 1] for n, v in feed.items()} for feed in feeds for row in range(3)]
    out = tmp_path / exporter.files[precision]
    signature = exporter.write(
        Source(model=lambda: model, onnx=source, texts=texts, max_tokens=40), out, precision
    )
    assert set(signature.outputs) == set(ENDS)
    session = runtimes.get(exporter.runtime)(out, threads=1, provider=CPU)
    like = runtimes.get("onnxruntime")(tmp_path / "fp32.onnx", threads=1, provider=CPU)
    for feed in feeds:
        real = feed["attention_mask"].astype(bool)
        expected, found = like.run(feed), session.run(feed)
        assert found.shape == expected.shape == (*real.shape, 2)
        assert cosine(found[real], expected[real]) > least
        # The wrong way round it would show.
        assert cosine(found[real][:, ::-1], expected[real]) < 0.95
