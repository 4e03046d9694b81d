"""A model without weights, filled part by part, whose own forward pass can begin at any block.

The model's own code builds masks, positions and biases and calls its blocks, so nothing here knows
how a family does that. A pass for one block goes through the model like any other, but its tokens
have no embeddings, blocks below answer with a state that is known already, and behind the block
it ends.

Three parts: `front` stands outside the blocks and runs before or beside them, `tail` runs after
them. The table of token embeddings belongs to neither: of it, only the rows of the batch are read.

Shape letters: B batch, N tokens, D width, E width of token embeddings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from toolchain.errors import UsageError
from toolchain.models.family import Family
from toolchain.models.loading import empty_model
from toolchain.scale.weights import Weights
from toolchain.spec import Task

__all__ = ["Ended", "Skeleton"]

# Older checkpoints call the parameters of their norms so.
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Ended(Exception):
    """A pass has gone as far as it should; `state_BND` is what its last block gave or reads."""

    def __init__(self, state_BND: Tensor) -> None:
        self.state_BND = state_BND


class Skeleton:
    """A model of its own class whose parameters have no values until they are filled in."""

    def __init__(
        self,
        config: PretrainedConfig,
        family: Family,
        task: Task,
        weights: Weights,
        *,
        device: torch.device,
        bf16: bool,
    ) -> None:
        """Build it; with `bf16`, matrices of linear layers are kept as autocast would cast them."""
        self.model = empty_model(config, task).requires_grad_(False)
        # Only a model that speaks reads earlier keys and values again.
        self.model.config.use_cache = False
        self._weights = weights
        self._device = device
        self._backbone: nn.Module = dict(self.model.named_children()).get(
            family.backbone, self.model
        )
        self._prefix = "" if self._backbone is self.model else f"{family.backbone}."
        self._other_prefix = f"{family.backbone}."
        blocks = self._backbone.get_submodule(family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks
        self._blocks_path = f"{self._prefix}{family.blocks}."
        tokens = self._backbone.get_submodule(family.tokens)
        assert type(tokens) is nn.Embedding, f"tokens are a {type(tokens).__name__}"
        self._tokens = tokens
        self._table = f"{self._prefix}{family.tokens}.weight"
        self._blank = dict(self.model.named_parameters(remove_duplicate=False))
        self._dtypes = _dtypes(self.model, bf16=bf16)
        self._stored = self._found_names()
        self._extra_outputs: int | None = None
        self._spare: list[Tensor] = []
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(
                    name,
                    buffer.to(device),
                    persistent=name not in module._non_persistent_buffers_set,
                )

    def block(self, layer: int) -> tuple[str, ...]:
        """Return the names of a block's parameters (1 is the lowest)."""
        prefix = f"{self._blocks_path}{layer - 1}."
        return tuple(name for name in self._blank if name.startswith(prefix))

    def front(self) -> tuple[str, ...]:
        """Return the names of what runs before the blocks or beside them."""
        # Children stand in the order in which they run.
        children = list(dict(self._backbone.named_children()))
        holder = self._blocks_path.removeprefix(self._prefix).split(".")[0]
        early = children[: children.index(holder) + 1]
        return tuple(
            name
            for name in self._outside()
            if name.startswith(self._prefix)
            and name.removeprefix(self._prefix).split(".")[0] in early
            and name != self._table
        )

    def tail(self) -> tuple[str, ...]:
        """Return the names of what runs after the blocks: last norm, pooler, head."""
        front = {*self.front(), self._table}
        return tuple(name for name in self._outside() if name not in front)

    def _outside(self) -> list[str]:
        return [name for name in self._blank if not name.startswith(self._blocks_path)]

    def check(self, names: Sequence[str]) -> None:
        """Raise UsageError unless the weights have these parameters, in their shapes."""
        for name in (*names, self._table):
            if name not in self._stored:
                raise UsageError(
                    f"the streamed teacher lacks {name!r}, which is read",
                    "a teacher is streamed as it is: give one that was trained for the task",
                )
            found, expected = self._weights.shapes[self._stored[name]], self._blank[name].shape
            if found != tuple(expected):
                raise UsageError(
                    f"the streamed teacher's {self._stored[name]!r} has shape {list(found)}, "
                    f"config.json says {list(expected)}"
                )

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return values of parameters on the device, each of the file's tensors read once."""
        values: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for name in names:
            stored = self._stored[name]
            if stored not in shared:
                shared[stored] = self._read(stored, self._blank[name].shape, self._dtypes[name])
            values[name] = shared[stored]
        return values

    def _read(self, stored: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a tensor's value, in the memory of an emptied one where there is such."""
        fits = (i for i, b in enumerate(self._spare) if b.shape == shape and b.dtype == dtype)
        place = next(fits, None)
        if place is None:
            return self._weights.read(stored).to(self._device, dtype)
        buffer = self._spare.pop(place)
        read = self._weights.read(stored, buffer)
        return buffer if read is buffer else buffer.copy_(read)

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Give parameters their values."""
        for name, value in values.items():
            self._set(name, nn.Parameter(value, requires_grad=False))

    def empty(self, names: Sequence[str], *, reuse: bool = False) -> None:
        """Take the values of parameters away again.

        With `reuse` their memory serves for what is read next: fresh pages are slow to get.
        """
        if reuse:
            values = [self.model.get_parameter(name).data for name in names]
            self._spare += {value.data_ptr(): value for value in values}.values()
        else:
            self._spare.clear()
        for name in names:
            self._set(name, self._blank[name])

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        path, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(path), leaf, parameter)

    @contextmanager
    def part(self, layer: int, *, ends: bool) -> Iterator["Skeleton"]:
        """Make passes begin at block `layer` and, if it `ends` there, raise Ended behind it.

        Layer 0 is the embeddings; a layer above the last block is the tail.
        """
        handles = []
        below = self.blocks[: max(layer - 1, 0)]
        for block in below:
            block.forward = self._answer
        self._tokens.forward = self._look_up if layer <= 1 else self._nothing  # type: ignore[method-assign,assignment]
        if ends and layer == 0:
            handles.append(self.blocks[0].register_forward_pre_hook(_end_before, with_kwargs=True))
        elif ends:
            handles.append(self.blocks[layer - 1].register_forward_hook(self._end_behind))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for module in (*below, self._tokens):
                del module.forward

    def run(self, inputs: Mapping[str, Tensor], state_BND: Tensor | None) -> object:
        """Run the part on a batch, on from the state below it. Raises Ended where it ends."""
        self._state_BND = state_BND
        try:
            return self.model(**inputs)
        finally:
            self._state_BND = None

    def _answer(self, *_: object, **__: object) -> object:
        if self._extra_outputs is None:
            return self._state_BND
        return (self._state_BND, *[None] * self._extra_outputs)

    def _end_behind(self, module: nn.Module, args: object, output: object) -> None:  # noqa: ARG002
        # transformers 4 returns a tuple from a block, transformers 5 mostly a tensor.
        if isinstance(output, tuple):
            self._extra_outputs = len(output) - 1
            output = output[0]
        assert isinstance(output, Tensor)
        raise Ended(output)

    def _look_up(self, ids_BN: Tensor) -> Tensor:
        rows_BNE = self._weights.rows(self._stored[self._table], ids_BN)
        return rows_BNE.to(self._device, torch.float32)

    def _nothing(self, ids_BN: Tensor) -> Tensor:
        E = self._tokens.embedding_dim
        return torch.zeros(*ids_BN.shape, E, device=self._device)

    def _found_names(self) -> dict[str, str]:
        """Return the tensor of every parameter that has one: its own, or one it is tied to."""
        twins: dict[int, list[str]] = {}
        for name, parameter in self._blank.items():
            twins.setdefault(id(parameter), []).append(name)
        found = {}
        for name, parameter in self._blank.items():
            for candidate in (name, *twins[id(parameter)]):
                stored = self._stored_name(candidate)
                if stored:
                    found[name] = stored
                    break
        return found

    def _stored_name(self, name: str) -> str | None:
        """Return what the checkpoint calls a parameter; a bare model's has no prefix."""
        other = self._other_prefix
        forms = [name, name.removeprefix(other), f"{other}{name}"]
        for new, old in _OLD_NAMES.items():
            forms += [f.removesuffix(new) + old for f in forms if f.endswith(new)]
        return next((form for form in forms if form in self._weights.shapes), None)


def _end_before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:  # noqa: ARG001
    state = args[0] if args else kwargs["hidden_states"]
    assert isinstance(state, Tensor)
    raise Ended(state)


def _dtypes(model: nn.Module, *, bf16: bool) -> dict[str, torch.dtype]:
    """Return the type of every parameter, as a teacher in memory has it.

    In bf16 that is the type of linear layers, but for matrices that are tables of embeddings too.
    """
    linear: set[int] = set()
    tables: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            linear.update(map(id, module.parameters(recurse=False)))
        elif isinstance(module, nn.Embedding):
            tables.update(map(id, module.parameters(recurse=False)))
    return {
        name: torch.bfloat16 if bf16 and id(p) in linear - tables else torch.float32
        for name, p in model.named_parameters(remove_duplicate=False)
    }
