"""Going on with a text: each runtime by its own cache, both as the model does without one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.unit.bundle.conftest import save_model
from tests.unit.bundle.test_generate import save_decoder
from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.measurement import Load
from toolchain.runtimes.adapters import onnxruntime, pytorch

PROVIDER = "CPUExecutionProvider"


def feed(*ids: int) -> dict[str, np.ndarray]:
    row = np.array([ids], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def test_onnxruntime_remembers_what_was_read(tmp_path: Path) -> None:
    path = save_decoder(tmp_path / "decoder.onnx")
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    expected = [5, 9, 7]
    for _ in range(6):
        expected.append(int((held["words"][expected].sum(0) @ held["matrix"]).argmax()))
    session = onnxruntime.open_session(path, threads=1, provider=PROVIDER)
    assert session.generate(feed(5, 9, 7), 6).tolist() == [expected[3:]]
    whole = session.run(feed(*expected))
    assert whole[0, 2:-1].argmax(-1).tolist() == expected[3:]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_pytorch_remembers_what_was_read(name: str, tmp_path: Path) -> None:
    model = zoo.make(name, "causal_lm")
    folder = zoo.save(model, tmp_path / "model")
    session = pytorch.open_session(folder, threads=1, provider=PROVIDER)
    expected = [5, 9, 7]
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([expected])).logits
        expected.append(int(logits[0, -1].argmax()))
    assert session.generate(feed(5, 9, 7), 6).tolist() == [expected[3:]]


def test_a_model_without_a_cache_says_so(tmp_path: Path) -> None:
    path = save_model(tmp_path / "classifier.onnx")
    session = onnxruntime.open_session(path, threads=1, provider=PROVIDER)
    with pytest.raises(UsageError, match="a graph without a cache does not go on with texts"):
        session.generate(feed(5), 2)
    folder = zoo.save(zoo.make("bert", "classify"), tmp_path / "bert")
    slow = pytorch.open_session(folder, threads=1, provider=PROVIDER)
    with pytest.raises(UsageError, match="a model without a cache"):
        slow.generate(feed(5), 2)


def test_new_tokens_per_second_follow_from_the_median_run() -> None:
    from toolchain.measurement import Measurement

    measured = Measurement(
        model="m", target="host", fidelity="measured", runtime="onnxruntime", threads=1,
        load=Load(tokens=8, new_tokens=16), samples_ns=(4_000_000,) * 50, round_sizes=(50,),
    )  # fmt: skip
    assert measured.new_tokens_per_s == pytest.approx(4000)
    assert measured.as_json()["new_tokens"] == 16
