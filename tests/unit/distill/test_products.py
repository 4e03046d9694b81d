"""Quick products say what torch's own say, forward, backward and twice backward."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from toolchain import hardware
from toolchain.distill.products import quick_products

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
    reason="this torch has no MKL, or no oneDNN",
)


@pytest.fixture(autouse=True)
def _a_cpu_where_mkl_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"vendor_id": "AuthenticAMD", "flags": "avx2 avx512f"}
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: told)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), Conv1D(16, 40), nn.Linear(16, 3, bias=False))


def inputs(kind: str) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(5, 7, 24)
    match kind:
        case "flat":
            x = x[0]
        case "first tokens":
            x = x[:, :1]
        case "turned":
            x = x.transpose(0, 1)
    return x.detach().requires_grad_()


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    x.grad = None
    said = model(x)
    said.square().sum().backward()
    assert x.grad is not None
    return [said, x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", ["batch", "flat", "first tokens", "turned"])
def test_values_and_gradients_are_those_of_torch(kind: str) -> None:
    model, x = net(), inputs(kind)
    expected = [tensor.detach().clone() for tensor in gradients(model, x)]
    with quick_products(model):
        assert "_Product" in type(model(x).grad_fn).__name__
        found = gradients(model, x)
    assert len(found) == len(expected) == 7
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert "_Product" not in type(model(x).grad_fn).__name__


def test_gradients_have_gradients() -> None:
    model, x = net(), inputs("batch")

    def penalty() -> torch.Tensor:
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        model.zero_grad()
        slope.square().sum().backward()
        (weight, *_) = model.parameters()
        assert weight.grad is not None
        return weight.grad.clone()

    expected = penalty()
    with quick_products(model):
        torch.testing.assert_close(penalty(), expected, atol=1e-4, rtol=1e-4)


def test_a_copy_computes_with_its_own_weights() -> None:
    model, x = net(), inputs("batch")
    with quick_products(model), torch.no_grad():
        twin = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert model(x).abs().max() == 0
        torch.testing.assert_close(twin(x), net()(x), atol=1e-5, rtol=1e-5)


def test_other_types_and_no_rows_at_all_are_left_to_torch() -> None:
    model, x = net(), inputs("batch")
    with quick_products(model):
        assert model(x[:0]).shape == (0, 7, 3)
        assert model.double()(x.double()).dtype == torch.float64


def test_intels_cpus_and_those_without_avx512_keep_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for vendor, flags in (("GenuineIntel", "avx2 avx512f"), ("AuthenticAMD", "avx2")):
        told = {"vendor_id": vendor, "flags": flags}
        monkeypatch.setattr(hardware, "_cpuinfo", lambda told=told: told)
        assert hardware.quick_linear() is None
        model = net()
        with quick_products(model):
            assert not _changed(model)


def test_bf16_is_left_to_torch() -> None:
    model, x = net(), inputs("batch")
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        with quick_products(model):
            assert _changed(model)
            found = model(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def _changed(model: nn.Module) -> bool:
    return any("forward" in vars(layer) for layer in model.modules())
