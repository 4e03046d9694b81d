"""Blocks of a model that run by themselves, in the midst of another model's pass."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Blocks", "InTurn", "hidden_of", "with_hidden"]


class Blocks(Protocol):
    """How blocks of a model are run by themselves. All ranks do so at the same time."""

    def before(self, inputs: Mapping[str, object]) -> None:
        """Hear what the other model is about to read."""

    def __call__(
        self, blocks: Sequence[nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> object:
        """Return what the last of some blocks gives, each reading what the one before it gave.

        The first reads what a block of the other model is called with.
        """


class InTurn:
    """Runs blocks as they are: with whatever the other model's block is called with."""

    def before(self, inputs: Mapping[str, object]) -> None:
        """Need nothing of it."""

    def __call__(
        self, blocks: Sequence[nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> object:
        """Return what the last block gives."""
        output: object = None
        for number, block in enumerate(blocks):
            if number:
                args, kwargs = with_hidden(hidden_of(output), args, kwargs)
            output = block(*args, **kwargs)
        return output


def hidden_of(output: object) -> Tensor:
    """Return the states among what a block gives: some give a tuple, some a tensor."""
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, torch.Tensor)
    return tensor


def with_hidden(
    hidden: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return what a block is called with, with other states."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}
