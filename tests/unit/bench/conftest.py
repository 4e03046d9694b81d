import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from toolchain.progress import Null

# Mean of the attended rows of a table, times a matrix: a classifier of 100 tokens and 3 classes.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (int64[B,N] input_ids, int64[B,N] attention_mask) => (float[B,3] logits)
<float[%d,3] table, int64[1] last = {2}>
{
  rows = Gather(table, input_ids)
  mask = Cast<to = 1>(attention_mask)
  mask3 = Unsqueeze(mask, last)
  kept = Mul(rows, mask3)
  logits = ReduceMean<axes = [1], keepdims = 0>(kept)
}
"""
VOCAB = 100


@pytest.fixture
def onnx_file(tmp_path):
    """Write a small classifier with its own random table and return its path."""

    def write(name="m", vocab=VOCAB, seed=0):
        model = onnx.parser.parse_model(GRAPH % vocab)
        table = np.random.default_rng(seed).normal(size=(vocab, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, str(path))
        return path

    return write


@pytest.fixture
def rows():
    """Rows as a tokenizer gives them: 1 ... 2, padded with 0 to 12 positions."""
    generator = np.random.default_rng(0)
    encoded = []
    for length in (3, 5, 9, 12, 4, 7, 7, 10):
        ids = np.zeros(12, dtype=np.int64)
        ids[:length] = generator.integers(10, VOCAB, length)
        ids[0], ids[length - 1] = 1, 2
        mask = (np.arange(12) < length).astype(np.int64)
        encoded.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * 0})
    return encoded


class Heard(Null):
    """Keeps what was said; `on_advance` is called with every tick."""

    def __init__(self, on_advance=lambda _done, _total: None):
        self.said, self.ticks, self.on_advance = [], [], on_advance

    def say(self, message):
        self.said.append(message)

    def advance(self, task, done, total, **_figures):
        self.ticks.append((task, done, total))
        self.on_advance(done, total)


@pytest.fixture
def heard():
    return Heard
