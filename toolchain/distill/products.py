"""Products of linear layers in float32, by the faster of the two libraries that torch carries.

Half of training is these products, forward and backward. Where torch's own choice leaves half of
the CPU unused (`hardware.quick_linear`), layers of models that train or teach are given the other
within a block; results differ by the order of sums.

Shape letters: I inputs, O outputs, R rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from toolchain import hardware

__all__ = ["quick_products"]

_Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def quick_products(*modules: nn.Module) -> Iterator[None]:
    """Within the block, let linear layers multiply float32 on the CPU as fast as can be here.

    Layers that already compute in a way of their own are left alone. For bf16 torch takes the
    faster library by itself.
    """
    quick = hardware.quick_linear()
    changed = []
    for layer in (layer for module in modules for layer in module.modules()):
        plain = type(layer) in (nn.Linear, Conv1D) and "forward" not in vars(layer)
        if quick and plain:
            # Not a closure: a copy of the layer computes with its own weight.
            layer.forward = partial(_forward, quick, layer)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def _forward(quick: _Linear, layer: Any, x: Tensor) -> Tensor:
    weight_OI = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    plain = x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel()
    if plain or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, weight_OI, layer.bias)
    return _product(quick, x, weight_OI, layer.bias)


def _product(quick: _Linear, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    found: Tensor = _Product.apply(quick, x, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return found


class _Product(torch.autograd.Function):
    """x W^T + b with its gradients, which are products of the same kind."""

    @staticmethod
    def forward(
        ctx: Any, quick: _Linear, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        ctx.quick = quick
        ctx.save_for_backward(x, weight_OI)
        return quick(x, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight_OI = ctx.saved_tensors
        _, for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient_RO = gradient.flatten(0, -2)
        # As a weight, one with gaps between its rows is multiplied without vectors.
        x_RI = x.flatten(0, -2).contiguous()
        to_x = to_weight = to_bias = None
        if for_x:
            to_x = _product(ctx.quick, gradient, weight_OI.t())
        if for_weight:
            to_weight = _product(ctx.quick, gradient_RO.t(), x_RI.t())
        if for_bias:
            to_bias = gradient_RO.sum(0)
        return None, to_x, to_weight, to_bias
