import numpy as np
import pytest

from toolchain.bench.footprint import footprint
from toolchain.bench.loads import fixed_length
from toolchain.bench.runner import Contender
from toolchain.errors import IntegrityError, StepError, UsageError

MIB = 2**20


@pytest.fixture
def measure(rows, tmp_path):
    def run(contender):
        feed = fixed_length(rows, 8, 1, 0)[0]
        work = tmp_path / "work"
        found = footprint(contender, feed, threads=1, provider="CPUExecutionProvider", work=work)
        assert not list(work.iterdir()), "what it needed is cleared away"
        return found

    return run


def test_a_footprint_is_of_the_model_alone_however_large_the_parent_is(measure, onnx_file):
    held = np.ones(300 * MIB, dtype=np.uint8)
    found = measure(Contender("small", "onnxruntime", onnx_file()))
    assert held.all()
    assert found.model == "small"
    assert 0 < found.baseline_bytes < found.peak_bytes < 200 * MIB
    assert found.cold_start_ms > 0


def test_a_larger_model_has_a_larger_peak_on_the_same_baseline(measure, onnx_file):
    small = measure(Contender("small", "onnxruntime", onnx_file("small")))
    # 5 million rows of 3 floats: 57 MiB of weights.
    large = measure(Contender("large", "onnxruntime", onnx_file("large", vocab=5_000_000)))
    assert large.peak_bytes - small.peak_bytes > 50 * MIB
    assert abs(large.baseline_bytes - small.baseline_bytes) < 10 * MIB


def test_a_corrupt_model_is_told_in_the_sentence_of_its_runtime(measure, onnx_file):
    path = onnx_file()
    path.write_bytes(b"nothing like it")
    with pytest.raises(IntegrityError, match=r"m\.onnx: not a whole ONNX model"):
        measure(Contender("m", "onnxruntime", path))


def test_a_model_that_fails_while_running_is_told_with_the_shape(measure, onnx_file):
    with pytest.raises(StepError, match="failed on a feed of shape 1 x 8"):
        measure(Contender("m", "onnxruntime", onnx_file(vocab=5)))


def test_a_missing_model_and_an_unknown_runtime_are_refused(measure, onnx_file, tmp_path):
    with pytest.raises(UsageError, match=r"m: .*absent\.onnx: no such file"):
        measure(Contender("m", "onnxruntime", tmp_path / "absent.onnx"))
    with pytest.raises(UsageError, match="m: unknown runtime 'torch'"):
        measure(Contender("m", "torch", onnx_file()))
