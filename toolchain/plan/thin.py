"""A MobileBERT student for a teacher of another family: equal sums between thin blocks."""

from dataclasses import replace

from toolchain.errors import UsageError
from toolchain.models.family import families
from toolchain.recipe import StudentShape
from toolchain.spec import ModelSpec

__all__ = ["thin_spec"]

# Of the paper's shape: 512 between blocks, 128 inside, 512 in the feed-forwards, 128-d embeddings.
_INNER, _FFN, _EMBEDDING = 4, 4, 128


def thin_spec(shape: StudentShape, teacher: ModelSpec, reasons: list[str]) -> ModelSpec:
    """Return the shape of a MobileBERT with the teacher's depth, width and heads.

    Raises UsageError for another family, and for what MobileBERT cannot share with this teacher.
    """
    if shape.family != "mobilebert":
        raise UsageError(
            f"student.family is {shape.family!r}, the teacher is a {teacher.family}",
            "a student is of its teacher's family, or a mobilebert",
        )
    if teacher.causal:
        raise UsageError(f"a mobilebert reads both ways, the teacher ({teacher.family}) one way")
    if shape.hidden not in (None, teacher.width):
        raise UsageError(
            f"student.hidden is {shape.hidden}, the teacher is {teacher.width} wide",
            "between its blocks a mobilebert is as wide as its teacher; set student.inner for the "
            "width inside them",
        )
    heads = shape.heads or teacher.heads
    inner = shape.inner or heads * max(1, round(teacher.width / _INNER / heads))
    if inner % heads:
        raise UsageError(
            f"student.inner is {inner}, which {heads} heads do not divide",
            f"a multiple of {heads} near it: {heads * max(1, round(inner / heads))}",
        )
    spec = replace(
        teacher,
        family="mobilebert",
        layers=shape.layers or teacher.layers,
        heads=heads,
        kv_heads=heads,
        head_width=inner // heads,
        ffn=shape.ffn or _FFN * inner,
        embedding_width=min(_EMBEDDING, teacher.width // _INNER),
        token_types=max(1, teacher.token_types),
        rotary=False,
        parts=replace(families.get("mobilebert").parts, tied=teacher.parts.tied),
    )
    if spec.params() > teacher.params():
        raise UsageError(
            f"student: {spec} has {spec.params():,} parameters, more than the teacher's "
            f"{teacher.params():,}",
            "give it a smaller student.inner or student.ffn",
        )
    table = spec.embedding_width == teacher.embedding_width
    reasons.append(
        f"a mobilebert of the teacher's {'' if table else 'position and type '}embeddings and "
        "head where their shapes agree; "
        + ("" if table else f"its token embeddings are {spec.embedding_width} wide, so they and ")
        + "its blocks start at random"
    )
    return spec
