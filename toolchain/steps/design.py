"""The step that makes the student: a shape, and the teacher's weights it starts from."""

from pathlib import Path

from toolchain.artifact import Draft
from toolchain.export.tokenizer import save_tokenizer
from toolchain.layermap import LayerMap
from toolchain.models.build import build_student
from toolchain.models.family import Family
from toolchain.models.initialise import Init
from toolchain.models.loading import load_classifier, save_classifier
from toolchain.spec import ModelSpec

__all__ = ["design"]


def design(
    draft: Draft,
    *,
    teacher: Path,
    family: Family,
    spec: ModelSpec,
    init: Init,
    copied: LayerMap,
    seed: int,
) -> None:
    """Write an untrained student of shape `spec` with the teacher's tokenizer."""
    student = build_student(load_classifier(teacher), family, spec, init, seed=seed)
    save_classifier(student, draft.folder)
    save_tokenizer(teacher, draft.folder)
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(
        shape=str(spec),
        init=init,
        layer_map=str(copied),
        parameters=sum(p.numel() for p in student.parameters()),
    )
