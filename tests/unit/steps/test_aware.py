"""A student that rounds like its int8 file answers like it: on real exported and quantised files.

Tolerance: no logit of any row further from the file's than a thousandth of what fp32's are.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.models.zoo import batch, make, save
from toolchain.distill.surgery.fake_int8 import FakeInt8, Product
from toolchain.distill.teachers import TrainingModel
from toolchain.errors import StepError
from toolchain.export.formats.onnx import export
from toolchain.models.family import family_of
from toolchain.optimize.precisions import int8
from toolchain.optimize.simplify import simplify
from toolchain.spec import Task
from toolchain.steps.aware import rounding_of

CLOSER = 1e-3


def files(name: str, task: Task, folder: Path) -> TrainingModel:
    """Write a random model, its fp32 and its int8 file; return the model."""
    model = make(name, task)
    save(model, folder / "model")
    export(model, folder / "traced.onnx")
    simplify(folder / "traced.onnx", folder / "fp32.onnx")
    int8.write(folder / "fp32.onnx", folder / "int8.onnx")
    family = family_of(model.config.model_type)
    spec = family.spec(model.config.to_dict(), task=task, num_labels=3)
    return TrainingModel(model=model, family=family, spec=spec)


def answers(file: Path, inputs: dict[str, torch.Tensor], row: int) -> NDArray[np.float32]:
    """What a file answers to one row by itself, without padding."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    count = int(inputs["attention_mask"][row].sum())
    feed = {
        node.name: inputs.get(node.name, torch.zeros_like(inputs["input_ids"]))[
            row : row + 1, :count
        ].numpy()
        for node in session.get_inputs()
    }
    (logits,) = session.run(["logits"], feed)
    return np.asarray(logits[0])


@pytest.mark.parametrize(("name", "task", "firsts"), [
    # Query, output, feed-forward of the last block; pooler and classifier.
    ("bert", "classify", 6),
    # Where the graph could not be rewritten, all of the last block is computed.
    pytest.param("mpnet", "classify", 2, marks=pytest.mark.slow),
    # A head tied to the table: stored as table and as matrix, two ways.
    pytest.param("bert", "mask_lm", 0, marks=pytest.mark.slow),
    pytest.param("roberta", "tag", 0, marks=pytest.mark.slow),
    pytest.param("distilbert", "classify", 6, marks=pytest.mark.slow),
    pytest.param("electra", "classify", 6, marks=pytest.mark.slow),
    pytest.param("mobilebert", "classify", 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_rounding_student_answers_like_its_int8_file_and_no_other(
    name: str, task: Task, firsts: int, tmp_path: Path
) -> None:
    student = files(name, task, tmp_path)
    rounding = rounding_of(tmp_path / "model", tmp_path / "fp32.onnx", task)
    assert sum(product.first for product in rounding.products) == firsts
    inputs = batch(name, rows=3)
    with torch.no_grad():
        plain = student.model(**inputs).logits.numpy()
        operation = rounding.begin(student, ())
        rounded = student.model(**inputs).logits.numpy()
        operation.heal()
        healed = student.model(**inputs).logits.numpy()
    # Nothing is folded: what is exported is what was trained.
    assert np.array_equal(plain, healed)
    for row in range(3):
        file = answers(tmp_path / "int8.onnx", inputs, row)
        # A classifier has one answer for the row, the others one for every token.
        own = slice(len(file)) if file.ndim == 2 else slice(None)
        off = np.abs(rounded[row][own] - file).max()
        assert off <= CLOSER * np.abs(plain[row][own] - file).max()
    # A file that was made of other weights is refused.
    with torch.no_grad():
        student.model.get_submodule(rounding.products[0].path).weight[0, 0] += 1
    save(student.model, tmp_path / "other")
    with pytest.raises(StepError, match="no module of the model has the"):
        rounding_of(tmp_path / "other", tmp_path / "fp32.onnx", task)


def test_gradients_reach_every_weight_that_is_rounded() -> None:
    model = make("bert", "classify")
    family = family_of("bert")
    spec = family.spec(model.config.to_dict(), task="classify", num_labels=3)
    paths = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    tables = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Embedding)]
    rounding = FakeInt8(
        products=tuple(Product(path, first=".3." in path and "key" not in path and "value" not in
                               path) for path in paths),
        tables=tuple(tables),
    )  # fmt: skip
    student = TrainingModel(model=model, family=family, spec=spec)
    operation = rounding.begin(student, ())
    model.train()
    inputs = batch("bert")
    model(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    operation.heal()
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert still == []
    assert all(bool(p.grad.abs().sum() > 0) for n, p in model.named_parameters() if "weight" in n)  # type: ignore[union-attr]
