"""How matrices stored (in, out), as GPT-2's are, are cut: transformers cuts those of linear layers.

Shape letters: B batch, N tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.placement_types import _StridedShard
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import TensorParallelLayer

from toolchain.scale.cuts import TRANSPOSED

__all__ = ["offer"]


def offer() -> None:
    """Let transformers know these ways of cutting by the names that plans give them."""
    made = (_Columns(3), _Columns(1), _Rows())
    for name, style in zip(TRANSPOSED, made, strict=True):
        ALL_PARALLEL_STYLES.register(name, style)  # type: ignore[arg-type]


class _Columns(TensorParallelLayer):
    """Some matrices side by side, of each of which every rank has its columns; so of biases."""

    def __init__(self, matrices: int) -> None:
        self._matrices = matrices

    def shard_param(self, module: nn.Module, param: str, mesh: Any) -> None:
        """Say which part of a parameter is this rank's."""
        last = module._parameters[param].ndim - 1  # type: ignore[union-attr]
        _cut(module, param, mesh, _StridedShard(dim=last, split_factor=self._matrices))

    def install_forward(self, module: nn.Module, mesh: Any) -> nn.Module:
        """Compute this rank's columns; a gradient of what is read is the sum of all ranks'."""

        def forward(x: Tensor) -> Tensor:
            weight, bias = (_here(p) for p in (module.weight, module.bias))
            shared = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
            own = shared.to_local(grad_placements=[Partial()])
            return torch.nn.functional.linear(own, weight.T, bias)

        module.forward = forward
        return module


class _Rows(TensorParallelLayer):
    """A matrix of which every rank has its rows. The bias is added once, to the sum over ranks."""

    def shard_param(self, module: nn.Module, param: str, mesh: Any) -> None:
        """Say which part of a parameter is this rank's."""
        _cut(module, param, mesh, Replicate() if param == "bias" else Shard(0))

    def install_forward(self, module: nn.Module, mesh: Any) -> nn.Module:
        """Sum what the ranks' rows give."""

        def forward(x: Tensor) -> Tensor:
            own = torch.nn.functional.linear(x, _here(module.weight).T)
            parts = DTensor.from_local(own, mesh, [Partial()], run_check=False)
            return parts.redistribute(placements=[Replicate()]).to_local() + _here(module.bias)

        module.forward = forward
        return module


def _cut(module: nn.Module, name: str, mesh: Any, placement: Placement) -> None:
    whole = module._parameters[name]
    assert whole is not None
    part = distribute_tensor(whole, mesh, [placement], src_data_rank=None)
    module._parameters[name] = nn.Parameter(part, requires_grad=whole.requires_grad)


def _here(parameter: object) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter  # type: ignore[return-value]
