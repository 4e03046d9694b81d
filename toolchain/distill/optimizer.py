"""The optimiser of a stage: which parameters decay, which belong to a surgery, how far it goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from toolchain.distill.tables import TableAdamW, gathered

__all__ = ["clip", "groups_of", "optimizer_of"]


def optimizer_of(
    modules: Mapping[str, nn.Module], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW over everything that learns."""
    return TableAdamW(groups_of(modules, weight_decay), lr=lr, fused=True)


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

    As torch's clip_grad_norm_, but a gradient that is short enough is not written again, and of a
    table that has a gradient of rows only these are read.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = gathered(parameter.grad)
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    total = nn.utils.get_total_norm(gradients)
    if bool(total > norm):
        torch._foreach_mul_(gradients, norm / (total + 1e-6))
