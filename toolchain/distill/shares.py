"""How much of the gradient each term supplies, and a warning when one drowns or starves others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from toolchain.distill.tables import gathered

__all__ = ["gradient_shares", "warning"]

_DROWNS, _STARVES = 0.99, 0.001
_READINGS = 3


def gradient_shares(
    weighted: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> dict[str, float]:
    """Return each term's part of the sum of the terms' gradient norms over the student's weights.

    `weighted` are the terms as they enter the loss. Costs one backward pass per term and leaves the
    graph and the parameters' own gradients as they are. Terms that train projections or heads alone
    are left out; empty when no term has a gradient.
    """
    norms = {}
    for name, value in weighted.items():
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        found = [gathered(g).values() if g.is_sparse else g for g in gradients if g is not None]
        own = [torch.linalg.vector_norm(g).double() for g in found]
        # Or the next term's gradients would stand beside these.
        del gradients, found
        if own:
            norms[name] = float(torch.linalg.vector_norm(torch.stack(own)))
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}


def warning(readings: Sequence[Mapping[str, float]]) -> str | None:
    """Return a sentence when over the last readings one term had nearly all or nearly nothing."""
    last = readings[-_READINGS:]
    if len(last) < _READINGS or len(last[-1]) < 2:
        return None
    for name in last[-1]:
        shares = [reading.get(name, 0.0) for reading in last]
        if min(shares) > _DROWNS:
            return (
                f"term {name} supplies over {_DROWNS:.0%} of the gradient and drowns the others: "
                "lower its weight, or set balance=initial"
            )
        if max(shares) < _STARVES:
            return (
                f"term {name} supplies under {_STARVES:.1%} of the gradient: raise its weight, "
                "set balance=initial, or drop it"
            )
    return None
