"""Models with different tokenizers: what of them cannot be compared, and what is said of it."""

from toolchain.distill.objectives import Objective
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.transforms import Fixed, Transform
from toolchain.spec import SEQUENCE, ModelSpec

__all__ = ["check_comparable", "check_places", "require_same_tokens"]

# Transforms that do not mind how many outcomes a row has, and that some are padding.
_OF_ANY_LENGTH = ("anneal", "detach", "softmax")
_POOLED = "pooled states (transform: [pool], with a projection where widths differ)"


def require_same_tokens(what: str, way_out: str, student: ModelSpec, teacher: ModelSpec) -> None:
    """Raise Unfit, saying why (`what`) and what to do, unless both read the same tokens."""
    if student.tokenizer != teacher.tokenizer:
        raise Unfit(
            f"{what}: the student reads the tokens of {student.tokenizer}, the teacher those of "
            f"{teacher.tokenizer}",
            way_out,
        )


def check_comparable(
    compared: Shape,
    objective: Objective,
    transforms: tuple[Transform, ...],
    student: ModelSpec,
    teacher: ModelSpec,
) -> None:
    """Raise Unfit where what is compared, at the end of its transforms, stands at tokens.

    Models with one tokenizer pass. With two, one value per sequence may be compared, and rows of
    logits by an objective that does not ask at which token they stand.
    """
    if student.task == "mask_lm":
        require_same_tokens(
            "of a masked text each model reads what its own tokenizer hides",
            "use a labelled task or decoders, or a teacher with the student's tokenizer",
            student,
            teacher,
        )
    if objective.guide:
        require_same_tokens(
            f"it selects by the teacher's {objective.guide} between tokens",
            f"use {_way_out(student)}",
            student,
            teacher,
        )
    for transform in transforms:
        if isinstance(transform, Fixed) and transform.by_token:
            require_same_tokens(
                f"{transform.key} finds the student's tokens among the teacher's",
                "leave it out, and use uld, which needs no common vocabulary",
                student,
                teacher,
            )
    if compared.per_token and not objective.any_tokens:
        require_same_tokens(
            "it compares token by token", f"use {_way_out(student)}", student, teacher
        )


def check_places(
    kind: str, read: Shape, objective: Objective, transforms: tuple[Transform, ...]
) -> None:
    """Raise Unfit for what cannot leave padding out of logits whose outcomes are tokens.

    Or what needs equally many outcomes in every row.
    """
    if kind not in ("logits", "head") or read.features is not None:
        return
    other = [t.key for t in transforms if t.key not in _OF_ANY_LENGTH]
    if other or not objective.rowwise or objective.across:
        raise Unfit(
            f"{other[0] if other else objective.key} needs equally many outcomes in every row, "
            "but those of a question are the tokens of its text",
            "use kd or another divergence, or terms on hidden states",
        )


def _way_out(student: ModelSpec) -> str:
    if student.task in SEQUENCE:
        return f"predictions (kd, uld), or {_POOLED}"
    free = "uld, which compares sorted predictions"
    if student.task == "causal_lm":
        free += ", seqkd, which learns from the teacher's text"
    return f"{free}, or {_POOLED}"
