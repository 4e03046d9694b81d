"""The hard concrete distribution: random gates in [0, 1] with mass at both ends and a gradient.

Louizos, Welling, Kingma, ICLR 2018 (arXiv 1712.01312), section 2.2. A gate is ruled by its
log alpha; the three constants are the paper's.
"""

import math
from typing import TYPE_CHECKING

from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor
else:
    torch = lazy("torch")

__all__ = ["open_probability", "sampled", "settled"]

_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1
_EDGE = 1e-6


def sampled(log_alpha: "Tensor", generator: "Generator") -> "Tensor":
    """Draw gates of the same shape (equations 10 and 11); gradients reach `log_alpha`."""
    u = torch.rand(log_alpha.shape, generator=generator).clamp(_EDGE, 1 - _EDGE)
    noise = (u.log() - (-u).log1p()).to(log_alpha.device)
    return _stretched(((noise + log_alpha) / _BETA).sigmoid())


def open_probability(log_alpha: "Tensor") -> "Tensor":
    """Return the probability that a gate is not 0 (equation 12)."""
    return (log_alpha - _BETA * math.log(-_LOW / _HIGH)).sigmoid()


def settled(log_alpha: "Tensor") -> "Tensor":
    """Return the gates of evaluation, without noise (equation 13)."""
    return _stretched(log_alpha.sigmoid())


def _stretched(x: "Tensor") -> "Tensor":
    return (x * (_HIGH - _LOW) + _LOW).clamp(0, 1)
