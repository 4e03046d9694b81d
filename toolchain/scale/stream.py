"""A teacher that is never in memory whole: its blocks are read one after another.

All batches go through a block before the next one is needed, so its weights are read once, by a
thread that runs ahead of the computation by one block. States between blocks, and what was asked
for of blocks that are done, stay in memory up to a limit and go to disk beyond it. It goes only as
deep as what is asked for: the head is read for predictions, no block above the highest one named.

Peak memory: two blocks (or a block and the head), the embeddings of positions, one batch in
flight, and the limit.

Shape letters: B batch, N tokens, D width, H heads.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils.generic import ModelOutput

from toolchain.data.batching import Batch, Rows
from toolchain.distill.capture import Attention, Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.distill.operators.operator import Patches
from toolchain.distill.positions import positions_of
from toolchain.distill.products import quick_products
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.family import Family
from toolchain.models.loading import load_config
from toolchain.models.outputs import logits_of
from toolchain.progress import Null, Progress
from toolchain.scale.skeleton import Ended, Skeleton
from toolchain.scale.spill import Spill
from toolchain.scale.weights import FileWeights, Weights
from toolchain.spec import LABELLED, ModelSpec, Task

__all__ = ["StreamedModel", "StreamedTeacher", "streamed"]

# Kinds of knowledge that stand behind the blocks.
_BEHIND = frozenset({"logits", "head", "pooled", "states"})
_MEMORY_BYTES = 2**30

# What is kept of a batch: the state above the last block done, a requested tensor, or what stands
# between projections and scores.
_Name = tuple[str, Request | None]
_STATE: _Name = ("state", None)
_COS: _Name = ("cos", None)
_SIN: _Name = ("sin", None)
_BIAS: _Name = ("bias", None)


@dataclass(frozen=True, kw_only=True)
class StreamedModel:
    """A teacher on disk, before it is known what is read of it.

    `memory_bytes` is what states and captures may take before they go to a file in `work`.
    """

    config: PretrainedConfig
    family: Family
    spec: ModelSpec
    weights: Weights
    rows: Rows | None = None
    memory_bytes: int = _MEMORY_BYTES
    work: Path | None = None

    def reading(self, rows: Rows | None) -> "StreamedModel":
        """Return it with rows of its own."""
        return replace(self, rows=rows)

    def open(
        self, requests: frozenset[Request], *, device: torch.device, bf16: bool
    ) -> "StreamedTeacher":
        """Return it as a teacher. Raises UsageError when a tensor it needs is not there."""
        return StreamedTeacher(self, requests, device=device, bf16=bf16)


def streamed(
    found: Checkpoint,
    task: Task | None = None,
    *,
    rows: Rows | None = None,
    memory_bytes: int = _MEMORY_BYTES,
    work: Path | None = None,
) -> StreamedModel:
    """Return an inspected model folder as a teacher that is streamed, for its own task or another.

    Raises UsageError for a missing shard, and for a task its family has no head for.
    """
    task = task or found.task
    labels = found.labels if task in LABELLED and found.labels else None
    return StreamedModel(
        config=load_config(found.root, task, labels=labels),
        family=found.family,
        spec=replace(found.spec, task=task),
        weights=FileWeights(found.root),
        rows=rows,
        memory_bytes=memory_bytes,
        work=work,
    )


@dataclass(frozen=True)
class _Part:
    """One sweep over all batches: through a block, the embeddings alone (0), or the tail."""

    layer: int
    names: tuple[str, ...]
    requests: frozenset[Request]
    ends: bool


class StreamedTeacher:
    """Runs the blocks of a model one after another; no gradient, no dropout."""

    def __init__(
        self,
        teacher: StreamedModel,
        requests: Iterable[Request],
        *,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.spec, self.rows = teacher.spec, teacher.rows
        self._teacher = teacher
        self._device = device
        self._bf16 = bf16
        self._skeleton = Skeleton(
            teacher.config,
            teacher.family,
            teacher.spec.task,
            teacher.weights,
            device=device,
            bf16=bf16,
        )
        self._parts = _parts(self._skeleton, frozenset(requests), teacher)
        front = self._skeleton.front()
        self._skeleton.check([*front, *(name for part in self._parts for name in part.names)])
        self._skeleton.fill(self._skeleton.read(front))

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return what the model knows of one batch, for which all blocks are read anew."""
        if patches:
            raise UsageError(
                "a streamed teacher's activations cannot be replaced while it runs: "
                "its blocks are in memory one at a time",
                "use a method without interventions, or hold the teacher in memory",
            )
        (captures,) = self.captures_of([batch])
        return captures

    def captures_of(
        self, batches: Iterable[Batch], *, progress: Progress | None = None
    ) -> Iterator[Captures]:
        """Yield what the model knows of every batch, in order; the blocks are read once for all.

        Nothing is yielded before all batches stand in front of the last part.
        """
        progress = progress or Null()
        kept = list(batches)
        if not kept:
            return
        teacher = self._teacher
        with (
            Spill[_Name](teacher.memory_bytes, teacher.work) as spill,
            quick_products(self._skeleton.model),
            closing(self._filled()) as filled,
        ):
            for number, part in enumerate(filled, start=1):
                last = number == len(self._parts)
                for i, captures in enumerate(self._sweep(part, kept, spill)):
                    if last:
                        yield self._joined(spill.pop(i), part, captures)
                    else:
                        _store(spill, i, part, captures)
                progress.advance("blocks", number, len(self._parts))

    def close(self) -> None:
        """Let go of the weights beside the blocks."""
        self._skeleton.empty(self._skeleton.front())

    def _filled(self) -> Generator[_Part]:
        """Yield every part while it has its weights; the next one's are read meanwhile."""
        with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as reader:
            # A future that is done holds weights: it is taken out before the next one is made.
            coming = deque([reader.submit(self._skeleton.read, self._parts[0].names)])
            for number, part in enumerate(self._parts):
                self._skeleton.fill(coming.popleft().result())
                ahead = [after.names for after in self._parts[number + 1 :][:2]]
                if ahead:
                    coming.append(reader.submit(self._skeleton.read, ahead[0]))
                try:
                    yield part
                finally:
                    # What follows the next part is read into this one's memory, if it is a block.
                    alike = len(ahead) == 2 and self._parts[number + 2].ends
                    self._skeleton.empty(part.names, reuse=alike)

    def _sweep(
        self, part: _Part, batches: Sequence[Batch], spill: Spill[_Name]
    ) -> Iterator[Captures]:
        """Take every batch through a part, from the states below it to those above."""
        model, teacher = self._skeleton.model, self._teacher
        recorder = Recorder(model, teacher.family, teacher.spec, part.requests)
        with recorder, self._skeleton.part(part.layer, ends=part.ends):
            for i, batch in enumerate(batches):
                here = batch.to(self._device)
                below = spill.get(i, _STATE).to(self._device) if part.layer > 1 else None
                if part is self._parts[-1]:
                    spill.drop(i, _STATE)
                found = self._run(here, below)
                if part is not self._parts[-1]:
                    spill.put(i, _STATE, found.cpu())
                if part.ends:
                    yield recorder.take(None)
                else:
                    yield recorder.take(found, positions_of(self.spec.task, here.labels).rows)

    def _joined(self, stored: Mapping[_Name, Tensor], part: _Part, captures: Captures) -> Captures:
        """Return the captures of the last part with what the others left."""
        named = {name: tensor.to(self._device) for name, tensor in stored.items()}
        named |= _named(part, captures)
        attention = Attention(
            normed={r: x for (kind, r), x in named.items() if kind == "normed" and r},
            rotary=(named[_COS], named[_SIN]) if _COS in named else None,
            bias_NNH=named.get(_BIAS),
            refused=captures.attention.refused,
        )
        kept = {r: x for (kind, r), x in named.items() if kind == "kept" and r}
        return Captures(kept, self.spec.heads, attention, captures.decoder)

    def _run(self, batch: Batch, state: Tensor | None) -> Tensor:
        """Return the state above a part, or logits where it is the last of the model."""
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast:
            try:
                output = self._skeleton.run(batch.inputs, state)
            except Ended as ended:
                return ended.state_BND
        assert isinstance(output, ModelOutput)
        return logits_of(output)


def _parts(skeleton: Skeleton, requests: frozenset[Request], teacher: StreamedModel) -> list[_Part]:
    """Return what must be swept for these requests. Raises UsageError for what cannot be read."""
    spec = teacher.spec
    behind = frozenset(request for request in requests if request.kind in _BEHIND)
    if behind:
        teacher.family.head(spec.task)
    depth = spec.layers if behind else max((request.layer for request in requests), default=0)
    parts = []
    for layer in range(min(depth, 1), depth + 1):
        lowest = frozenset({layer, 0} if layer <= 1 else {layer})
        here = frozenset(r for r in requests - behind if r.layer in lowest)
        names = skeleton.block(layer) if layer else ()
        parts.append(_Part(layer, names, here, ends=True))
    if behind:
        parts.append(_Part(spec.layers + 1, skeleton.tail(), behind, ends=False))
    for part in parts:
        # What has no place in this model is refused now, not after hours.
        with Recorder(skeleton.model, teacher.family, spec, part.requests):
            pass
    return parts


def _store(spill: Spill[_Name], batch: int, part: _Part, captures: Captures) -> None:
    for name, tensor in _named(part, captures).items():
        if name not in spill.names(batch) or name[1] is not None:
            spill.put(batch, name, tensor.cpu())


def _named(part: _Part, captures: Captures) -> dict[_Name, Tensor]:
    attention = captures.attention
    named: dict[_Name, Tensor] = {("kept", r): captures.tensors[r] for r in part.requests}
    named |= {("normed", request): tensor for request, tensor in attention.normed.items()}
    if attention.rotary is not None:
        named[_COS], named[_SIN] = attention.rotary
    if attention.bias_NNH is not None:
        named[_BIAS] = attention.bias_NNH
    return named
