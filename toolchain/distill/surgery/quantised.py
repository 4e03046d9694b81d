"""The numbers an int8 file computes with, in floats: what it stores, and what it makes of inputs.

Each function does what one operator of the file does, to the bit, and returns the floats its
integers stand for. The gradient is straight through: that of the input, and none where the integer
was cut off at either end of its range. Scales and zero points have no gradient. Imports torch:
loaded only when a student is operated on.

Shape letters: B batch, N tokens, D inputs of a product, O its outputs, V rows of a table.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["as_looked_up", "as_multiplied", "as_read"]

_BYTE = 255
_SYMMETRIC = 127
_LEAST = torch.finfo(torch.float32).tiny


def as_read(x: Tensor, real_BN: Tensor | None = None) -> Tensor:
    """Return inputs of a product as DynamicQuantizeLinear makes them: uint8, a range per sequence.

    x is (B, D), or (B, N, D) with `real_BN`, or (B, N, D) of which all tokens count. A range holds
    zero and covers the real tokens of one sequence alone: an int8 file reads one row at a time,
    where no other row and no padding widens it. Tokens that are not real fall where they fall.
    """
    with torch.no_grad():
        seen = x if real_BN is None else x.masked_fill(~real_BN.unsqueeze(-1), 0.0)
        axes = tuple(range(1, x.ndim))
        low = seen.amin(axes, keepdim=True).clamp(max=0.0)
        high = seen.amax(axes, keepdim=True).clamp(min=0.0)
        scale = torch.where(high == low, 1.0, (high - low) / _BYTE)
        zero = (-low / scale).clamp(0, _BYTE).round()
    return _rounded(x, scale, zero, 0, _BYTE)


def as_multiplied(weight: Tensor, outputs: int = 0) -> Tensor:
    """Return a matrix as it is stored: int8, symmetric, one scale per output.

    `outputs` is the axis of O: weights are (O, D), or (D, O) with outputs = 1.
    """
    with torch.no_grad():
        largest = weight.abs().amax(1 - outputs, keepdim=True)
        scale = _scale(largest.double() / _SYMMETRIC)
    return _rounded(weight, scale, torch.zeros_like(scale), -_SYMMETRIC, _SYMMETRIC)


def as_looked_up(rows: Tensor, table_VD: Tensor) -> Tensor:
    """Return rows of a table as they are stored: uint8, one range for the whole table."""
    with torch.no_grad():
        low, high = (end.double() for end in torch.aminmax(table_VD))
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        exact = (high - low) / _BYTE
        scale = _scale(exact)
        flat = exact < _LEAST
        zero = torch.where(flat, 0.0, (-low / exact.clamp(min=_LEAST)).round()).to(scale.dtype)
    return _rounded(rows, scale, zero, 0, _BYTE)


def _scale(exact: Tensor) -> Tensor:
    """Return scales found in float64 as they are stored; of all zeros it is 1."""
    return torch.where(exact < _LEAST, 1.0, exact).float()


def _rounded(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    found: Tensor = _Rounded.apply(x, scale, zero, low, high)  # type: ignore[no-untyped-call]
    return found


class _Rounded(torch.autograd.Function):
    """round(x / scale) + zero, cut off at `low` and `high`, as the float it stands for.

    Halves are rounded to even before the zero point is added, as runtimes do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        """Keep where the integer is in range."""
        whole = (x / scale).round_().add_(zero)
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp_(low, high).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient on where nothing was cut off."""
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None
