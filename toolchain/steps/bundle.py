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
    text_model: Path | None = None,
) -> None:
    """Write the bundle of one variant for one target."""
    build(
        draft.folder,
        target=target,
        model=variant.path,
        model_digest=variant.digest,
        tokenizer=tokenizer,
        labels=task.labels,
        kind="single" if task.of_language else task.kind,
        max_tokens=max_tokens,
        golden_texts=_rows(task)[:_GOLDEN_ROWS],
        precision=variant.precision,
        lineage=lineage,
        licenses=licences,
        metric=metric,
        measurements=measurements,
        notes=target.notes,
        task=task.task,
        format=variant.format,
        text_model=text_model,
        unanswered=task.unanswered,
    )
    draft.format, draft.precision = "bundle", variant.precision
    draft.facts.update(target=target.name, model=variant.name)


def _rows(task: TaskData) -> Sequence[tuple[str, ...]]:
    """Return rows of dev as a bundle's script takes them: a text, two of them, or words."""
    split = task.dev
    if split.words is not None:
        return split.words
    if split.texts_b is not None and not task.of_language:
        return list(zip(split.texts, split.texts_b, strict=True))
    return [(text,) for text in split.texts]


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
