"""LayerMap: which teacher layer stands beside which student layer.

Layer 0 is the embedding output, layers 1..L are block outputs (methods.md section 0). One type
serves both matching (which states are compared) and initialisation (which blocks are copied).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["LayerMap", "first", "last", "skip", "uniform"]


@dataclass(frozen=True)
class LayerMap:
    """Pairs (student layer, teacher layer), in student order."""

    pairs: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the pairs."""
        return iter(self.pairs)

    def __str__(self) -> str:
        """As `1<-2 2<-4 3<-6`."""
        return " ".join(f"{student}<-{teacher}" for student, teacher in self.pairs)

    @property
    def student(self) -> tuple[int, ...]:
        """Student layers, each once, in order."""
        return tuple(dict.fromkeys(s for s, _ in self.pairs))

    @property
    def teacher(self) -> tuple[int, ...]:
        """Teacher layers, each once, in order."""
        return tuple(dict.fromkeys(t for _, t in self.pairs))

    def problem(self, student_layers: int, teacher_layers: int) -> str | None:
        """Return why the map does not fit two models of these depths, or None."""
        for s, t in self.pairs:
            if not 0 <= s <= student_layers:
                return f"student layer {s} does not exist: the student has {student_layers}"
            if not 0 <= t <= teacher_layers:
                return f"teacher layer {t} does not exist: the teacher has {teacher_layers}"
        return None


def _round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def uniform(student: int, teacher: int, *, blocks: Iterable[int] | None = None) -> LayerMap:
    """Spread evenly: g(l) = round(l * L_T / L_S), half up, so that g(L_S) = L_T (TinyBERT, 3.1)."""
    chosen = range(1, student + 1) if blocks is None else blocks
    return LayerMap(tuple((s, _round_half_up(s * teacher, student)) for s in chosen))


def skip(student: int, teacher: int) -> LayerMap:
    """Spread evenly without the final block, which the logits supervise (PKD-Skip, 3.1)."""
    return uniform(student, teacher, blocks=range(1, student))


def first(student: int, teacher: int) -> LayerMap:
    """Match block l with block l: the teacher's lowest `student` blocks."""
    return LayerMap(tuple((s, s) for s in range(1, min(student, teacher) + 1)))


def last(student: int, teacher: int) -> LayerMap:
    """Match the student's last block with the teacher's last."""
    return LayerMap(((student, teacher),))
