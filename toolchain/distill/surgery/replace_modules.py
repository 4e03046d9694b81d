"""Modules replaced at random: the teacher's blocks stand in for the student's while it trains.

BERT-of-Theseus (Xu et al., EMNLP 2020; arXiv 2002.02925).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

from toolchain import layermap
from toolchain.distill.context import Moment
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery.surgery import Operation, Surgery
from toolchain.distill.tokens import require_same_tokens
from toolchain.errors import UsageError
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch.nn import Module, Parameter

    from toolchain.distill.teachers import Readable, TrainingModel
else:
    torch = lazy("torch")

__all__ = ["ReplaceModules", "Replacing", "groups"]


def groups(student: int, teacher: int) -> tuple[range, ...]:
    """Return which teacher blocks (1 is the lowest) student block 1, 2, ... stands for.

    Group i ends with block round(i L_T / L_S), half up, where the uniform map of layers ends too;
    so groups differ by one block at most when L_T is no multiple of L_S: 12 to 5 gives 1-2, 3-5,
    6-7, 8-10, 11-12.
    """
    ends = [0, *layermap.uniform(student, teacher).teacher]
    return tuple(range(first + 1, last + 1) for first, last in pairwise(ends))


@dataclass(frozen=True)
class ReplaceModules(Surgery):
    """In each step student block i is used with probability p, the teacher's group i otherwise.

    p rises on a line from `start` to 1 at `until` (a part of the stage), or with `ramp` off stays
    at `start` until there; then p is 1 and the student is trained as a whole (successor
    fine-tuning). Embeddings and head are the teacher's and rest while p < 1.
    """

    key: ClassVar[str] = "replace_modules"
    # A block the teacher stands in for projects nothing.
    hides: ClassVar[frozenset[str]] = frozenset({"q", "k", "v", "attn_scores", "attn_probs"})
    one_teacher: ClassVar[bool] = True
    takes_modules: ClassVar[bool] = True
    start: float = 0.3
    until: float = 0.66
    ramp: bool = True

    def probability(self, progress: float) -> float:
        """Return p at this progress: min(1, p0 + k t), equation 7."""
        if progress >= self.until:
            return 1.0
        if not self.ramp:
            return self.start
        return min(1.0, self.start + (1.0 - self.start) * progress / self.until)

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Raise Unfit unless blocks of both can follow each other."""
        if not 0.01 <= self.start <= 1 or not 0 <= self.until <= 1:
            raise Unfit(
                f"start is {self.start:g} and until {self.until:g}",
                "start is a probability from 0.01 to 1, until a part of the stage from 0 to 1",
            )
        require_same_tokens(
            "the teacher's blocks stand in for the student's, on the same tokens",
            "use a method that exchanges no blocks, such as kd",
            student,
            teacher,
        )
        if student.layers > teacher.layers:
            raise Unfit(
                f"{student.layers} student blocks cannot share {teacher.layers} teacher blocks",
                "give the student no more layers than its teacher",
            )
        for name in ("family", "width", "vocab", "embedding_width", "max_tokens", "token_types"):
            mine, theirs = getattr(student, name), getattr(teacher, name)
            if mine != theirs:
                raise Unfit(
                    f"the student's {name} is {mine}, the teacher's {theirs}",
                    "a student whose blocks are swapped with the teacher's has its embeddings and "
                    "width: leave out --hidden",
                )

    def begin(self, student: "TrainingModel", teachers: "Sequence[Readable]") -> "Replacing":
        """Let the teacher's blocks stand in for the student's in training mode."""
        (teacher,) = teachers
        return Replacing(self, student, cast("TrainingModel", teacher))


class Replacing(Operation):
    """The replacement under way.

    No module is added or renamed: while the student trains, its blocks have a forward method of
    their own that asks whether they are `used`. In evaluation mode they are what they were.
    """

    def __init__(
        self, surgery: ReplaceModules, student: "TrainingModel", teacher: "TrainingModel"
    ) -> None:
        self._surgery = surgery
        self._model = student.model
        self._blocks = _blocks(student)
        theirs = _blocks(teacher)
        _refuse_mixed(teacher)
        teacher.model.eval().requires_grad_(False)
        self._theirs = teacher.blocks
        self._hears = student.model.register_forward_pre_hook(self._hear, with_kwargs=True)
        self._rest = _shared(student, teacher)
        self._cached = bool(getattr(student.model.config, "use_cache", False))
        if self._cached:
            # Keys and values of stand-ins would be stored among the student's.
            student.model.config.use_cache = False
        self.used = [True] * len(self._blocks)
        for index, group in enumerate(groups(len(self._blocks), len(theirs))):
            self._swap(index, [theirs[layer - 1] for layer in group])

    def before_step(self, moment: Moment) -> None:
        """Draw which student blocks are used; embeddings and head learn only when all are."""
        p = self._surgery.probability(moment.progress)
        self.used = self._drawn(p, moment)
        for parameter in self._rest:
            parameter.requires_grad_(p >= 1)

    def heal(self) -> None:
        """Give the blocks their own forward method back."""
        for block in self._blocks:
            del block.forward
        self._hears.remove()
        for parameter in self._rest:
            parameter.requires_grad_(True)
        if self._cached:
            self._model.config.use_cache = True

    def _drawn(self, p: float, moment: Moment) -> list[bool]:
        """Return one draw per block, drawn anew as long as no block would learn."""
        if not 0 < p < 1:
            return [p >= 1] * len(self._blocks)
        generator = moment.draw(self._surgery.key, moment.step)
        while True:
            draws = (torch.rand(len(self._blocks), generator=generator) < p).tolist()
            if any(draws):
                return list(map(bool, draws))

    def _hear(
        self,
        module: "Module",
        args: tuple[object, ...],  # noqa: ARG002
        kwargs: dict[str, object],
    ) -> None:
        if module.training and not all(self.used):
            self._theirs.before(kwargs)

    def _swap(self, index: int, stand_ins: "list[Module]") -> None:
        block = self._blocks[index]
        own: Callable[..., object] = block.forward

        def forward(*args: object, **kwargs: object) -> object:
            if self.used[index] or not block.training:
                return own(*args, **kwargs)
            return self._theirs(stand_ins, args, kwargs)

        block.forward = forward


def _blocks(side: "TrainingModel") -> "list[Module]":
    prefix = side.family.block_prefix(1).removesuffix(".0.")
    return list(side.model.get_submodule(prefix).children())


def _shared(student: "TrainingModel", teacher: "TrainingModel") -> "list[Parameter]":
    """Give the student everything of the teacher that is outside blocks; return its parameters."""
    prefix = student.family.block_prefix(1).removesuffix("0.")
    theirs = dict(teacher.model.named_parameters())
    found = []
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if not name.startswith(prefix):
                parameter.copy_(teacher.whole(theirs[name]))
                found.append(parameter)
    return found


def _refuse_mixed(teacher: "TrainingModel") -> None:
    kinds = set(teacher.model.config.to_dict().get("layer_types") or ())
    if len(kinds) > 1:
        raise UsageError(
            f"replace_modules: the teacher mixes blocks of several kinds ({', '.join(kinds)})",
            "a stand-in is called with the masks of the block it replaces: use another method",
        )
