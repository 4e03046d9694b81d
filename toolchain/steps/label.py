"""The step that has the teacher label further texts, so that every method can learn from them.

Finished shards are kept in the work folder, so a killed step goes on where it stopped; what is
written depends on the teacher and the texts alone.

Shape letters: R rows, C outcomes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from toolchain.artifact import Artifact, Draft, write_atomic
from toolchain.data.coding import Label
from toolchain.data.sources import Split, TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.data.unlabelled import Unlabelled
from toolchain.distill.evaluate import logits_of_rows
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Progress

__all__ = ["ROWS", "label", "with_labelled"]

ROWS = "train.jsonl"
_SHARD = 512


def label(
    draft: Draft,
    *,
    teacher: Path,
    texts: Unlabelled,
    task: TaskData,
    max_tokens: int,
    batch_size: int,
    threads: int,
    work: Path,
    progress: Progress,
) -> None:
    """Write the texts with the teacher's answers to the draft, one JSON object per line.

    An answer is the likeliest class, the labels more likely than not, or the score. The draft's
    facts count rows and, of classes, how often each was said.
    """
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(teacher)
    model = load_model(teacher, task.task)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    work.mkdir(parents=True, exist_ok=True)
    labels: list[Label] = []
    for number in range(math.ceil(len(texts) / _SHARD)):
        part = slice(number * _SHARD, (number + 1) * _SHARD)
        path = work / f"shard-{number:05}.json"
        if not path.is_file():
            asked = _split(texts, part, task)
            made = _labels(model, tokenizer, asked, task, max_tokens, batch_size)
            write_atomic(path, json.dumps(made))
        labels += json.loads(path.read_text(encoding="utf-8"))
        progress.advance("label", len(labels), len(texts))
    lines = (
        json.dumps({"text": text, "text_b": text_b, "label": found}, ensure_ascii=False)
        for text, text_b, found in zip(
            texts.texts, texts.texts_b or (None,) * len(texts), labels, strict=True
        )
    )
    write_atomic(draft.folder / ROWS, "".join(f"{line}\n" for line in lines))
    draft.facts.update(rows=len(labels), file=texts.file)
    if task.task == "classify":
        said = {name: labels.count(number) for number, name in enumerate(task.labels)}
        draft.facts["said"] = said
        never = [name for name, times in said.items() if not times]
        if never:
            progress.say(f"label: the teacher gives no text of {texts.file} to {', '.join(never)}")


def _split(texts: Unlabelled, part: slice, task: TaskData) -> Split:
    """Return some texts as rows with a label in the place that tokenising asks for."""
    first = texts.texts[part]
    blank: Label = (0,) * len(task.labels) if task.task == "multi_label" else 0
    second = texts.texts_b[part] if texts.texts_b else None
    return Split(first, second, (blank,) * len(first), texts.file)


def _labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    task: TaskData,
    max_tokens: int,
    batch_size: int,
) -> Sequence[object]:
    rows = tokenize_split(tokenizer, split, task, max_tokens=max_tokens)
    logits_RC: NDArray[np.float32] = logits_of_rows(model, rows, batch_size=batch_size)
    match task.task:
        case "multi_label":
            found: NDArray[np.generic] = (logits_RC > 0).astype(np.int64)
        case "regress":
            found = logits_RC[:, 0]
        case _:
            found = logits_RC.argmax(axis=1)
    answers: list[object] = found.tolist()
    return answers


def with_labelled(task: TaskData, artifact: Artifact) -> TaskData:
    """Return the task with the labelled texts behind its training rows; dev and test stay."""
    train = task.train
    lines = artifact.path(ROWS).read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    texts_b = train.texts_b
    if texts_b is not None:
        texts_b = (*texts_b, *(str(row["text_b"]) for row in rows))
    labels = (tuple(x) if isinstance(x := row["label"], list) else x for row in rows)
    more: Split = replace(
        train,
        texts=(*train.texts, *(str(row["text"]) for row in rows)),
        texts_b=texts_b,
        labels=(*train.labels, *labels),
    )
    return replace(task, train=more)
