"""Fake quantisation against onnxruntime's own operators and quantiser, and its gradients."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quant_utils
from torch import Tensor

from toolchain.distill.surgery.quantised import as_looked_up, as_multiplied, as_read


def operators(weight_DO: NDArray[np.int8], scale_O: NDArray[np.float32]) -> ort.InferenceSession:
    """DynamicQuantizeLinear, MatMulInteger, the scales: what an int8 file has for a product."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero", "w_zero"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "w_scale"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in (
            ("y", TensorProto.FLOAT), ("q", TensorProto.UINT8), ("scale", TensorProto.FLOAT),
            ("zero", TensorProto.UINT8))],
        [numpy_helper.from_array(weight_DO, "w"), numpy_helper.from_array(scale_O, "w_scale"),
         numpy_helper.from_array(np.zeros(len(scale_O), np.int8), "w_zero")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def quantised(weight_OD: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The matrix (D, O) and its scales as onnxruntime's quantiser writes them."""
    columns, scales = [], []
    for row in weight_OD.numpy():
        _, scale, whole = quant_utils.quantize_data(row, TensorProto.INT8, symmetric=True)
        columns.append(whole)
        scales.append(scale)
    return np.stack(columns, axis=1), np.array(scales, np.float32)


INPUTS = {
    "both signs": lambda g: torch.randn(7, 48, generator=g),
    "one far outlier": lambda g: torch.randn(7, 48, generator=g).index_fill(
        1, torch.tensor([3]), 300.0
    ),
    "above zero only": lambda g: torch.rand(7, 48, generator=g) + 5.0,
    "below zero only": lambda g: -torch.rand(7, 48, generator=g) - 0.5,
    "tiny": lambda g: torch.randn(7, 48, generator=g) * 1e-30,
    "all zero": lambda g: torch.zeros(7, 48),  # noqa: ARG005
    # Halves between two steps: rounded to even before an odd zero point is added.
    "halves": lambda g: (torch.arange(7 * 48).reshape(7, 48) % 511 - 201) / 2.0,  # noqa: ARG005
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_product_is_what_the_operators_of_the_file_compute(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = INPUTS[name](generator)
    weight = torch.randn(16, 48, generator=generator)
    weight[4] *= 40
    weight[5] = 0
    whole, scales = quantised(weight)
    y, q, scale, zero = operators(whole, scales).run(None, {"x": x.numpy()})
    read = as_read(x.unsqueeze(0))[0]
    stored = as_multiplied(weight)
    # The numbers that are multiplied are the same to the bit.
    theirs = (q.astype(np.float32) - np.float32(zero)) * scale
    assert np.array_equal(read.numpy(), theirs)
    assert np.array_equal(stored.numpy().T, whole.astype(np.float32) * scales)
    ours = torch.nn.functional.linear(read.double(), stored.double()).numpy()
    np.testing.assert_allclose(ours, y, rtol=2e-6, atol=2e-6 * max(1e-37, np.abs(y).max()))


@pytest.mark.parametrize("low", [-1.0, 0.0, 0.3])
def test_a_table_is_stored_as_the_quantiser_stores_it(low: float) -> None:
    table = torch.rand(50, 8, generator=torch.Generator().manual_seed(1)) * 1.7 + low
    zero, scale, whole = quant_utils.quantize_data(
        table.numpy(), TensorProto.UINT8, symmetric=False
    )
    theirs = (whole.astype(np.float32) - np.float32(zero)) * scale
    ids = torch.tensor([[3, 3, 49], [0, 7, 1]])
    assert np.array_equal(as_looked_up(table[ids], table).numpy(), theirs[ids.numpy()])


def test_weights_stored_the_other_way_round_have_scales_of_their_outputs() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(as_multiplied(weight.T, outputs=1), as_multiplied(weight).T)


def test_a_sequence_is_read_as_if_it_were_alone_and_without_padding() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 9, 8, generator=generator)
    # Padding and other rows hold what would widen every range.
    real = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    x = torch.where(real.unsqueeze(-1), x, 100.0)
    x[0] *= 50
    together = as_read(x, real)
    for row, length in enumerate([9, 4, 1]):
        alone = as_read(x[row : row + 1, :length])
        assert torch.equal(together[row, :length], alone[0])


def test_the_gradient_goes_straight_through_the_rounding() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(6), requires_grad=True)
    weights = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(7))
    (as_read(x) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)


def test_padding_that_is_cut_off_has_no_gradient_and_gives_none_to_its_row() -> None:
    x = torch.tensor([[[0.5, -0.5], [9.0, -9.0]]], requires_grad=True)
    as_read(x, torch.tensor([[True, False]])).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 1].tolist() == [0.0, 0.0]
    assert x.grad[0, 0].tolist() == [1.0, 1.0]


def test_weights_and_tables_are_never_cut_off() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(4), requires_grad=True)
    as_multiplied(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_learning_through_the_rounding_finds_what_is_best_rounded() -> None:
    generator = torch.Generator().manual_seed(5)
    x, target = torch.randn(64, 12, generator=generator), torch.randn(64, 3, generator=generator)
    weight = torch.zeros(3, 12, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)
    losses = []
    for _ in range(150):
        loss = (as_read(x) @ as_multiplied(weight).T - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    best = torch.linalg.lstsq(x, target).solution
    floor = float((x @ best - target).square().mean())
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(floor, rel=0.02)
