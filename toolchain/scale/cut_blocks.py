"""Blocks of a cut teacher in the midst of a student's pass (BERT-of-Theseus).

Every rank has a part of each matrix, so a block must pass the rows of all ranks: the states of
these are gathered, the block runs on them, and each rank goes on with its own. Back through it, the
gradients of all ranks' rows are gathered, since every rank must have the same ones, and each rank
keeps those of its own rows.

Shape letters: B batch, N tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolchain.distill.blocks import InTurn, hidden_of, with_hidden
from toolchain.distill.ranks import gathered, of_all, own_part
from toolchain.models.family import Family

__all__ = ["CutBlocks"]


class CutBlocks:
    """Runs blocks of a cut model on this rank's states.

    What they read beside states (masks, places, biases of scores) is what the model itself gives
    its blocks for the rows of all ranks: a student's block is called with what its own rows need.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self._model = model
        self._first = model.get_submodule(family.block_prefix(1).removesuffix("."))
        self._called: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})
        self._own = (slice(0), slice(0))

    def before(self, inputs: Mapping[str, object]) -> None:
        """Learn what blocks are called with for these rows and those of the other ranks."""
        own = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        self._own = own_part(own["input_ids"])
        everyone = of_all(own, self._model.config.pad_token_id or 0)
        handle = self._first.register_forward_pre_hook(_reach, with_kwargs=True)
        try:
            with torch.no_grad():
                self._model(**everyone)
        except _ReachedError as reached:
            self._called = reached.called
        finally:
            handle.remove()

    def __call__(
        self,
        blocks: Sequence[nn.Module],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> object:
        """Return what the last block gives for this rank's rows."""
        state_BND = hidden_of(args or kwargs["hidden_states"])
        among_all: Tensor = _Among.apply(state_BND, self._own)  # type: ignore[no-untyped-call]
        output = InTurn()(blocks, *with_hidden(among_all, *self._called))
        own: Tensor = _Own.apply(hidden_of(output), self._own)  # type: ignore[no-untyped-call]
        return (own, *output[1:]) if isinstance(output, tuple) else own


class _ReachedError(Exception):
    """Ends a pass at the first block: what follows is not needed."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.called = (args, kwargs)


def _reach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    raise _ReachedError(args, kwargs)


class _Among(torch.autograd.Function):
    """States of all ranks. Every rank has the gradients of all of them, and keeps its own."""

    @staticmethod
    def forward(ctx: Any, state_BND: Tensor, own: tuple[slice, slice]) -> Tensor:
        ctx.own = own
        return gathered(state_BND)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own], None


class _Own(torch.autograd.Function):
    """This rank's states of those of all. Ranks give each other the gradients of theirs."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, own: tuple[slice, slice]) -> Tensor:  # noqa: ARG004
        return states[own].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gathered(gradient), None
