"""What BERT-EMD remembers over a run: how much each layer counts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LayerWeights"]

# The least part of all costs a layer is taken to have, so that no weight becomes infinite.
_LEAST = 1e-9


class LayerWeights(nn.Module):
    """Weights of student and teacher layers, each side summing to 1; saved with the run.

    Layers whose mass travels cheaply gain weight: w_i' = sum_k C_k / C_i, brought to the sum 1,
    with C_i = sum_j f_ij d_ij / w_i (cost attention of arXiv 2010.06133, as in the authors' code).
    Terms that share it move it to the mean of what each asks for. The change takes place after the
    step, when the engine calls `observe`.
    """

    student: Tensor
    teacher: Tensor

    def __init__(self, student: int, teacher: int, *, learn: bool) -> None:
        super().__init__()
        self.register_buffer("student", torch.full((student,), 1 / student, dtype=torch.float64))
        self.register_buffer("teacher", torch.full((teacher,), 1 / teacher, dtype=torch.float64))
        self._learn = learn
        self._moved: list[tuple[list[float], list[float]]] = []

    def moved(self, work: Sequence[Sequence[float]]) -> None:
        """Take one term's flow times cost, S rows of T, for the next change of the weights."""
        if self._learn:
            by_teacher = [sum(column) for column in zip(*work, strict=True)]
            self._moved.append(([sum(row) for row in work], by_teacher))

    def observe(self, value: float) -> None:  # noqa: ARG002
        """Change the weights by what was moved since the last time."""
        moved, self._moved = self._moved, []
        if moved:
            students, teachers = zip(*moved, strict=True)
            self.student.copy_(_mean(self.student, students))
            self.teacher.copy_(_mean(self.teacher, teachers))


def _mean(weights: Tensor, asked: Sequence[Sequence[float]]) -> Tensor:
    return torch.stack([_changed(weights, torch.tensor(w).to(weights)) for w in asked]).mean(0)


def _changed(weights: Tensor, work: Tensor) -> Tensor:
    costs = work / weights
    total = costs.sum()
    if total <= 0:
        # Equal models: nothing had to be moved.
        return weights
    changed = total / costs.clamp(min=float(total) * _LEAST)
    return changed / changed.sum()
