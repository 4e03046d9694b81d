"""What ZeRO-3 lacks: a parameter read whole outside of its module's pass, passes in any order."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.distill.ranks import place
from toolchain.scale.budget import bucket_of

__all__ = ["gathering", "joined", "passes_in_any_order", "whole"]

_ANY_NUMBER = 1 << 60


def gathering(elements: int) -> dict[str, int]:
    """Return ZeRO-3's settings for a model of so many numbers: what is gathered at once is little.

    Left to itself DeepSpeed keeps what is read again within the next 10^9 numbers and fetches as
    many ahead: all of most models.
    """
    few = bucket_of(elements)
    return {
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 2 * few,
        "stage3_prefetch_bucket_size": few,
    }


def joined(shard: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return a tensor of which every rank has an equal, flat cut, padded at its end."""
    own = shard.detach().to(device).contiguous()
    pieces = [torch.empty_like(own) for _ in range(place()[1])]
    torch.distributed.all_gather(pieces, own)
    return torch.cat(pieces)[: math.prod(shape)].view(*shape)


def whole(parameter: Tensor, device: torch.device) -> Tensor:
    """Return a parameter of DeepSpeed's whole; all ranks ask for it at the same time.

    Its gradient reaches the parameter beside that of its module's forward pass, in one sum.
    """
    found: Tensor = _Whole.apply(parameter, device)  # type: ignore[no-untyped-call]
    return found


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, device: torch.device) -> Tensor:  # noqa: ARG004
        held: Any = parameter
        return joined(held.ds_tensor, held.ds_shape, device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return gradient, None


def passes_in_any_order(model: nn.Module, offload: Any) -> None:
    """Let a model whose weights DeepSpeed gathers go back through any part of any pass.

    DeepSpeed expects of each module one forward pass, and then one backward pass from its outputs
    to its inputs. A loss on hidden states enters the graph behind the outputs of the modules around
    a block, so their end is seen without their beginning: what was not fetched is not released. An
    operator goes back through the plain pass before the loss does, with another pass between: what
    was released is fetched again, and released again.
    """
    for module in model.modules():
        # How often it is fetched is counted down from here.
        module.applied_pre_backward_ref_cnt = _ANY_NUMBER  # type: ignore[assignment]
    before, after = (
        offload.pre_sub_module_backward_function,
        offload.post_sub_module_backward_function,
    )
    begun: set[int] = set()

    def begin(module: nn.Module) -> None:
        begun.add(id(module))
        # Its inputs that still wait for their gradients: those of the last forward pass alone.
        held: Any = module
        held.ds_grads_remaining = max(1, held.ds_grads_remaining)
        before(module)

    def end(module: nn.Module) -> None:
        if id(module) in begun:
            begun.discard(id(module))
            after(module)

    offload.pre_sub_module_backward_function = begin
    offload.post_sub_module_backward_function = end
