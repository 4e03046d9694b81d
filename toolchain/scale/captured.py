"""Bytes of knowledge: what hooks keep, a vocabulary costs, terms learn, a cache holds."""

from collections.abc import Iterable, Sequence

from toolchain.distill.extract import Extract, Request
from toolchain.distill.records import PLAIN
from toolchain.distill.term import BoundTerm
from toolchain.distill.transforms import Project
from toolchain.scale.activations import Kernels
from toolchain.scale.knowledge import TOP_K, Lengths, keeps_of, wanted_of
from toolchain.spec import LANGUAGE, SEQUENCE, ModelSpec

__all__ = ["captured_bytes", "head_bytes", "kept_per_token", "learned_params"]


def captured_bytes(
    terms: Sequence[BoundTerm],
    student: ModelSpec,
    teachers: Sequence[ModelSpec],
    batch: int,
    tokens: int,
    kernels: Kernels,
) -> int:
    """Return the bytes hooks keep until the end of a step, beyond what autograd keeps anyway."""
    total = sum(
        _of_student(request, student, batch, tokens, kernels)
        for request in _asked(terms, "student")
    )
    for index, spec in enumerate(teachers):
        own = [bound for bound in terms if bound.teacher == index]
        total += sum(
            _of_teacher(request, spec, batch, tokens, kernels) for request in _asked(own, "teacher")
        )
    return total


def _asked(terms: Iterable[BoundTerm], side: str) -> frozenset[Request]:
    requests = (b.requests("student" if side == "student" else "teacher") for b in terms)
    return frozenset[Request]().union(*requests)


def _elements(request: Request, spec: ModelSpec, batch: int, tokens: int) -> int:
    kind = "logits" if request.kind == "head" else request.kind
    return Extract(kind).shape(spec).elements(batch, tokens)


def _of_teacher(
    request: Request, spec: ModelSpec, batch: int, tokens: int, kernels: Kernels
) -> int:
    """Sums are fp32 in any precision; what a matrix gives is as wide as it, and again in fp32."""
    size = _elements(request, spec, batch, tokens)
    if request.kind in ("emb", "hidden"):
        return 4 * size
    return (kernels.element + (4 if kernels.bf16 else 0)) * size


def _of_student(
    request: Request, spec: ModelSpec, batch: int, tokens: int, kernels: Kernels
) -> int:
    """Autograd keeps sums in fp32 where no autocast copy stands for them, and kernels' inputs."""
    size, parts = _elements(request, spec, batch, tokens), spec.parts
    if request.kind in ("logits", "head"):
        return 4 * size
    widened = 4 if kernels.bf16 else 0
    if request.kind in ("q", "k", "v"):
        scaled = parts.fused_attention and parts.attention_dropout and not kernels.gpu
        turned = request.kind != "v" and (spec.rotary or parts.head_norms)
        return (widened + (kernels.element if scaled or turned else 0)) * size
    return widened * size


def head_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes of a vocabulary's logits on their way back: two gradients of all rows.

    Their gradient at the supervised rows, that of all rows, and its copy in bf16.
    """
    if spec.task not in LANGUAGE:
        return 0
    copies = 4 + 4 + (kernels.element if kernels.bf16 else 0)
    return copies * batch * tokens * spec.vocab


def learned_params(terms: Iterable[BoundTerm]) -> int:
    """Return the parameters of the projections terms learn; what a group shares counts once."""
    found: dict[tuple[str, int, int], int] = {}
    for bound in terms:
        for i, transform in enumerate(bound.transforms):
            if not isinstance(transform, Project):
                continue
            for index, side in enumerate(("student", "teacher")):
                if transform.side not in ("both", side):
                    continue
                layers = bound.layer_map.student if index == 0 else bound.layer_map.teacher
                copies = len(layers) if transform.owner == "layer" else 1
                own = bound.sides[i][index].features or 0
                group = transform.group or f"{bound.name}/{i}"
                found[(group, index, bound.teacher)] = copies * own * transform.to
    return sum(found.values())


def kept_per_token(terms: Sequence[BoundTerm], teachers: Sequence[ModelSpec], tokens: int) -> int:
    """Return the bytes per token of a cache of the teachers, for rows of so many tokens."""
    total = 0
    for index, spec in enumerate(teachers):
        reads = any(b.teacher == index and b.requests("teacher") for b in terms)
        wanted = wanted_of(terms, PLAIN, index, spec.task, reads=reads)
        answers = 1 if spec.task in SEQUENCE else tokens
        row = Lengths(rows=1, tokens=tokens, pairs=tokens**2, answers=answers)
        total += row.bytes(keeps_of(wanted, spec, row, precision="bf16", top_k=TOP_K))
    return -(-total // tokens)
