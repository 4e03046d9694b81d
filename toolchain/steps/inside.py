"""The step that puts a tokenizer into its model's graph, or says why it stays beside it."""

from collections.abc import Sequence
from pathlib import Path

from toolchain.artifact import Artifact, Draft
from toolchain.data.sources import TaskData
from toolchain.errors import UsageError
from toolchain.export.inside import Row, put_inside

__all__ = ["TEXT_FILE", "put_beside_or_inside", "said_of", "task_rows", "text_model"]

# No runtime without text operators should take it for one of the model's precisions.
TEXT_FILE = "onnx/text_model.onnx"


def put_beside_or_inside(
    draft: Draft,
    *,
    model: Path,
    tokenizer: Path,
    rows: Sequence[Row],
    labels: Sequence[str],
    max_tokens: int,
) -> None:
    """Write `TEXT_FILE` into the draft where the graph reads exactly as the tokenizer does.

    `labels` name the outcomes of a row that has one. Facts say what was proved, or why not.
    """
    target = draft.folder / TEXT_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        put_inside(model, tokenizer, target, rows=rows, max_tokens=max_tokens, labels=labels)
    except UsageError as error:
        draft.facts["tokenizer_beside"] = error.message
        return
    draft.facts.update(text_file=TEXT_FILE, text_bytes=target.stat().st_size, text_rows=len(rows))


def text_model(artifact: Artifact) -> Path | None:
    """Return the file with the tokenizer inside, or None where it stays beside."""
    file = artifact.facts.get("text_file")
    return artifact.path(str(file)) if file else None


def said_of(artifact: Artifact, model: str) -> str:
    """Return in one sentence what became of a model's tokenizer."""
    why = artifact.facts.get("tokenizer_beside")
    if why:
        return f"the tokenizer of {model} stays beside it: {why}"
    rows, size = artifact.facts["text_rows"], int(artifact.facts["text_bytes"])
    return (
        f"{TEXT_FILE} is {model} with the tokenizer inside ({size / 1e6:.1f} MB): equal tokens on "
        f"{rows} rows of dev and on made-up texts"
    )


def task_rows(task: TaskData) -> Sequence[Row]:
    """Return the rows of dev: a text each, or two of a pair."""
    split = task.dev
    if split.texts_b is None:
        return [(text,) for text in split.texts]
    return list(zip(split.texts, split.texts_b, strict=True))
