"""Memory of a loss: what its terms hold beside the two forward passes, from shapes alone.

The peak of one term is

    max(extracts + transforms + stacks + mixtures + pairs * held + spare, gradients)

bytes in float32: everything held until the backward pass plus what one pair takes meanwhile, or
the gradients with respect to what the models gave. Every part says its own share (`memory`), so
that the formula cannot drift from the code it describes; a test compares it with what is really
allocated. Nothing here imports torch.
"""

from collections.abc import Iterable
from dataclasses import replace

from toolchain.distill.extract import Extract, Request
from toolchain.distill.shapes import Footprint, Shape
from toolchain.distill.term import BoundTerm, Term, bind
from toolchain.distill.transforms import Detach
from toolchain.spec import ModelSpec

__all__ = ["PIECE", "bound_bytes", "loss_bytes", "splits", "stage_bytes"]

PIECE = 1 << 23
"""Losses over more logits, or larger maps, are computed in pieces and again in the backward pass,
so that no two float32 copies of a whole vocabulary's logits ever exist."""


def loss_bytes(term: Term, student: ModelSpec, teacher: ModelSpec, batch: int, tokens: int) -> int:
    """Return the peak of one term's loss and gradient, in bytes. Raises UsageError as `bind`."""
    return bound_bytes(bind(term, student, teacher), batch, tokens)


def stage_bytes(terms: Iterable[BoundTerm], batch: int, tokens: int) -> int:
    """Return the peak of a sum of terms.

    All of them are held until the one backward pass, which takes them one after the other; the
    gradients of what the models gave add up.
    """
    found = [(_held(bound, batch, tokens), _gradients(bound, batch, tokens)) for bound in terms]
    held = sum(own.held for own, _ in found)
    spare = max((own.spare for own, _ in found), default=0)
    return max(held + spare, sum(gradients for _, gradients in found))


def bound_bytes(bound: BoundTerm, batch: int, tokens: int) -> int:
    """Return the peak of a term that has been fitted to both models."""
    own = _held(bound, batch, tokens)
    return max(own.held + own.spare, _gradients(bound, batch, tokens))


def splits(bound: BoundTerm) -> bool:
    """Return whether comparing rows piece by piece takes less memory than all at once.

    Not where nothing is held: the pieces' gradients and what they become are two tensors as well.
    """
    made = any(shape.head for sides in bound.sides for shape in sides)
    return bound.objective.rowwise and (bound.objective.held > 0 or made)


def _gradients(bound: BoundTerm, batch: int, tokens: int) -> int:
    """Return the bytes of the gradients with respect to what the student gave."""
    student = bound.specs[0]
    asked = bound.requests("student")
    return sum(_captured(request, student, batch, tokens) for request in asked)


def _held(bound: BoundTerm, batch: int, tokens: int) -> Footprint:
    """Return what a term holds until the backward pass, and takes beside it for one pair."""
    term, layer_map = bound.term, bound.layer_map
    student, teacher = bound.specs
    sides = [
        _side(bound, index, spec, len(layers), batch, tokens)
        for index, (spec, layers) in enumerate(
            ((student, layer_map.student), (teacher, layer_map.teacher))
        )
    ]
    held = sum(own.held for own, _ in sides)
    spare = max(own.spare for own, _ in sides)
    if term.guide is not None:
        maps = _read(term.guide, teacher, batch, tokens)
        held, spare = held + maps.held * len(layer_map.teacher), max(spare, maps.spare)
    (_, s), (_, t) = sides
    pair = _pair(bound, s, t, batch, tokens)
    held += term.match.pair_count(layer_map) * pair.held
    held += round(4 * term.match.mixed(layer_map) * t.elements(batch, tokens))
    return Footprint(held, max(spare, pair.spare))


def _side(
    bound: BoundTerm, index: int, spec: ModelSpec, layers: int, batch: int, tokens: int
) -> tuple[Footprint, Shape]:
    """Return what one side holds before it is compared, and its shape then."""
    term = bound.term
    name = ("student", "teacher")[index]
    shape = term.extract.shape(spec)
    if term.extract.is_gold and index:
        return Footprint(0), shape
    read = _read(term.extract, spec, batch, tokens)
    held, spare = layers * read.held, read.spare
    if term.match.stacked:
        shape = replace(shape, layers=len(bound.layer_map.pairs))
        held += 4 * shape.elements(batch, tokens)
        layers = 1
    # A detach at the start makes nothing; one further on is all that is held of what it detaches.
    chain = [transform for transform in bound.transforms if transform.side in ("both", name)]
    for i, transform in enumerate(chain):
        own = transform.memory(shape, batch, tokens)
        made = transform.shape(shape).elements(batch, tokens)
        if term.extract.kind == "states" and made > PIECE:
            # Rows become logits piece by piece.
            own = Footprint(0, round((own.held + own.spare) * PIECE / made))
        if isinstance(transform, Detach) and i == 0:
            continue
        if any(isinstance(later, Detach) for later in chain[i + 1 :]):
            own = Footprint(0, own.held + own.spare)
        held, spare = held + layers * own.held, max(spare, own.spare)
        shape = transform.shape(shape)
    return Footprint(held, spare), shape


def _read(extract: Extract, spec: ModelSpec, batch: int, tokens: int) -> Footprint:
    """Return what knowledge takes that is not kept by the forward pass: attention maps."""
    if extract.kind not in ("attn_scores", "attn_probs"):
        return Footprint(0)
    maps = 4 * extract.shape(spec).elements(batch, tokens)
    scaled = 4 * batch * tokens * spec.heads * spec.head_width
    if extract.kind == "attn_scores":
        return Footprint(maps + scaled, 0)
    return Footprint(maps + scaled, 3 * maps)


def _pair(bound: BoundTerm, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
    """Return what comparing one pair takes; beyond a piece everything is computed twice."""
    own = bound.objective.memory(student, teacher, batch, tokens)
    size = student.elements(batch, tokens)
    by_rows = splits(bound) and student.positions in ("logits", "pair")
    if not by_rows or size <= PIECE:
        return own
    row = size // batch if student.positions == "pair" else student.features or 1
    part = max(PIECE, row) / size
    # The pieces' gradients, and the tensor they become.
    return Footprint(0, round(part * (own.held + own.spare)) + 2 * 4 * size)


def _captured(request: Request, spec: ModelSpec, batch: int, tokens: int) -> int:
    """Return the bytes of the gradient of one tensor that a hook keeps."""
    if request.kind in ("logits", "head"):
        return 4 * Extract("logits").shape(spec).elements(batch, tokens)
    return 4 * Extract(request.kind).shape(spec).elements(batch, tokens)
