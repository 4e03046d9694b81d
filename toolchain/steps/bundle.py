"""The step that packs what ships to one target, and lets the bundle test itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.artifact import Draft
from toolchain.bundle.bundle import build
from toolchain.data.sources import TaskData
from toolchain.measurement import Measurement, Metric
from toolchain.steps.variants import Variant
from toolchain.target import Target

__all__ = ["bundle", "licences_of"]

_GOLDEN_ROWS = 40


def bundle(
    draft: Draft,
    *,
    variant: Variant,
    tokenizer: Path,
    target: Target,
    task: TaskData,
    max_tokens: int,
    lineage: Mapping[str, str],
    licences: Mapping[str, str],
    metric: Metric | None,
    measurements: Sequence[Measurement],
) -> None:
    """Write the bundle of one variant for one target."""
    first = task.dev.texts[:_GOLDEN_ROWS]
    texts: Sequence[str] | Sequence[tuple[str, str]] = first
    if task.dev.texts_b is not None:
        texts = list(zip(first, task.dev.texts_b[:_GOLDEN_ROWS], strict=True))
    build(
        draft.folder,
        target=target,
        model=variant.path,
        model_digest=variant.digest,
        tokenizer=tokenizer,
        labels=task.labels,
        kind=task.kind,
        max_tokens=max_tokens,
        golden_texts=texts,
        precision=variant.precision,
        lineage=lineage,
        licenses=licences,
        metric=metric,
        measurements=measurements,
        notes=target.notes,
        task=task.task,
    )
    draft.format, draft.precision = "bundle", variant.precision
    draft.facts.update(target=target.name, model=variant.name)


def licences_of(folder: Path, stated: str) -> dict[str, str]:
    """Return the licence texts that travel with a model made from the teacher in `folder`."""
    found = {
        f"teacher-{path.name}.txt": path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(folder.glob("LICENSE*"))
        if path.is_file()
    }
    said = (
        f"The teacher's model card states the licence {stated!r}."
        if stated
        else "The teacher's folder states no licence; ask its authors before you pass this on."
    )
    student = "A student made from its weights falls under the same terms.\n"
    return {**found, "teacher.txt": f"{said}\n{student}"}
