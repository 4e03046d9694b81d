"""The optimiser of a stage: which parameters decay, which belong to a surgery, how far it goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["clip", "groups_of", "optimizer_of"]


def optimizer_of(
    modules: Mapping[str, nn.Module], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW over everything that learns."""
    return torch.optim.AdamW(groups_of(modules, weight_decay), lr=lr, fused=True)


def groups_of(modules: Mapping[str, nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return everything that learns, in groups with and without decay.

    Each group says whether it is of the "surgery", which may have a learning rate of its own. The
    order numbers the parameters in checkpoints.
    """
    groups: list[dict[str, Any]] = []
    for surgery in (False, True):
        found = [
            parameter
            for name, module in modules.items()
            for parameter in module.parameters()
            if parameter.requires_grad and (name == "surgery") == surgery
        ]
        # Norms and biases are not pulled towards zero.
        for decay, few in ((weight_decay, False), (0.0, True)):
            chosen = [p for p in found if (p.ndim < 2) == few]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "surgery": surgery})
    return groups


def clip(parameters: Sequence[nn.Parameter], norm: float) -> None:
    """Shorten the gradient of all parameters together to `norm`, where it is longer.

    As torch's clip_grad_norm_, but a gradient that is short enough is not written again: with a
    table of embeddings that is most of what clipping costs.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    if bool(total > norm):
        nn.utils.clip_grads_with_norm_(parameters, norm, total)
