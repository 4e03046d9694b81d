"""Distiller: terms and their projections to one loss.

It stands outside the student and owns every learned projection: they are trained with the student,
clipped with it, saved with the run, and never exported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolchain.distill.capture import Captures
from toolchain.distill.term import BoundTerm
from toolchain.distill.transforms import Project

__all__ = ["Distiller", "Loss"]


@dataclass(frozen=True)
class Loss:
    """The weighted sum, and each term's raw value before weight and schedule."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Distiller(nn.Module):
    """Computes the loss of bound terms."""

    def __init__(self, terms: Sequence[BoundTerm]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.projections = nn.ModuleDict()
        for bound in self.terms:
            for i, transform in enumerate(bound.transforms):
                key = self._key(bound, i)
                module = transform.module()
                if module is not None and key not in self.projections:
                    self.projections[key] = module

    def forward(
        self,
        student: Captures,
        teacher: Captures | None,
        labels_B: Tensor,
        mask_BN: Tensor,
        denominators: Mapping[str, float],
        progress: float,
    ) -> Loss:
        """Return the loss of one micro-batch.

        `denominators` are those of the whole global batch, so that micro-batch losses add up to
        one masked mean; `progress` is in [0, 1].
        """
        total = torch.zeros((), device=labels_B.device)
        parts = {}
        # The models may run in bf16; what compares them never does.
        with torch.autocast(labels_B.device.type, enabled=False):
            for bound in self.terms:
                value = self._raw(bound, student, teacher, labels_B, mask_BN)
                value = value / denominators[bound.term.name]
                parts[bound.term.name] = value.detach()
                total = total + bound.term.weight * bound.term.schedule(progress) * value
        return Loss(total, parts)

    def _raw(
        self,
        bound: BoundTerm,
        student: Captures,
        teacher: Captures | None,
        labels_B: Tensor,
        mask_BN: Tensor,
    ) -> Tensor:
        term = bound.term
        if term.extract.kind == "labels":
            (request,) = term.extract.requests(0)
            values = term.objective(student.tensor(request), labels_B, None)
            return term.reduction.numerator(values, mask_BN)
        assert teacher is not None, f"term {term.name} needs a teacher"
        keys = mask_BN.bool()[:, None, None, :] if term.reduction.positions == "pair" else None
        s_by_layer = {
            layer: self._transformed(bound, "student", student.get(term.extract, layer), mask_BN)
            for layer in bound.layer_map.student
        }
        t_by_layer = {
            layer: self._transformed(bound, "teacher", teacher.get(term.extract, layer), mask_BN)
            for layer in bound.layer_map.teacher
        }
        numerators = [
            term.reduction.numerator(term.objective(s, t.detach(), keys), mask_BN)
            for s, t in term.match.pair(bound.layer_map, s_by_layer, t_by_layer)
        ]
        return torch.stack(numerators).sum()

    def _transformed(self, bound: BoundTerm, side: str, values: Tensor, mask_BN: Tensor) -> Tensor:
        for i, transform in enumerate(bound.transforms):
            if transform.side in ("both", side):
                learned = dict(self.projections.items()).get(self._key(bound, i))
                values = transform(values, mask_BN, learned)
        return values

    @staticmethod
    def _key(bound: BoundTerm, position: int) -> str:
        transform = bound.transforms[position]
        if isinstance(transform, Project) and transform.group:
            return f"project_{transform.group}"
        return f"{bound.term.name}_{position}".replace("/", "_").replace(".", "_")
