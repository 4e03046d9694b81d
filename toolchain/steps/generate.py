"""The step that has the teacher write the answers a student then learns (sequence-level KD).

Finished shards are kept in the work folder, so a killed step goes on where it stopped; what is
written depends on the teacher, the data and the settings alone.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from toolchain.artifact import Artifact, Draft, write_atomic
from toolchain.data.batching import Rows, collate
from toolchain.data.masking import IGNORED
from toolchain.data.sources import Split, TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.generation import beams, prompts_of
from toolchain.distill.operators import TeacherGenerate
from toolchain.errors import UsageError
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Progress

__all__ = ["ANSWERS", "generate", "likeness", "with_generated"]

ANSWERS = "train.jsonl"
_SHARD = 64


@dataclass(frozen=True)
class _Writer:
    """A teacher at its desk."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    rows: Rows
    settings: TeacherGenerate
    max_tokens: int
    max_new: int

    def answers(self, chosen: Sequence[int]) -> list[str]:
        """Return one answer per row; blank where the teacher says nothing."""
        device = next(self.model.parameters()).device
        batch = collate(self.rows, chosen).to(device)
        prompts = prompts_of(batch)
        room = self.max_tokens - max(map(len, prompts))
        if room < 1:
            return [""] * len(chosen)
        found = beams(
            self.model,
            prompts,
            width=self.settings.beams,
            max_new=min(self.max_new, room),
        )
        if self.settings.closest:
            references = [labels[labels != IGNORED].tolist() for labels in batch.labels]
            picked = [
                max(answers, key=lambda ids, wanted=wanted: likeness(ids.tolist(), wanted))  # type: ignore[misc]
                for answers, wanted in zip(found, references, strict=True)
            ]
        else:
            picked = [answers[0] for answers in found]
        return [self._text(ids) for ids in picked]

    def _text(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def generate(
    draft: Draft,
    *,
    teacher: Path,
    task: TaskData,
    settings: TeacherGenerate,
    max_tokens: int,
    batch_size: int,
    threads: int,
    work: Path,
    progress: Progress,
) -> None:
    """Write the training rows with the teacher's answers to the draft, one JSON object per line.

    An answer is at most as long as the longest of the data. Where the teacher says nothing the
    data's own answer stays; the draft's facts count these. Raises UsageError for data without
    prompts.
    """
    if task.train.texts_b is None or task.task != "causal_lm":
        raise UsageError(
            f"{task.train.file}: the teacher needs prompts to answer, found rows for {task.task} "
            f"{'without answers' if task.train.texts_b is None else 'with second texts'}",
            "give data with a prompt and an answer per row (data.columns)",
        )
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(teacher)
    rows = tokenize_split(tokenizer, task.train, task, max_tokens=max_tokens)
    model = load_model(teacher, "causal_lm")
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    assert isinstance(rows.labels, tuple)
    longest = max(int((labels != IGNORED).sum()) for labels in rows.labels)
    writer = _Writer(model, tokenizer, rows, settings, max_tokens, longest)
    work.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for number in range(math.ceil(len(rows) / _SHARD)):
        chosen = range(number * _SHARD, min(len(rows), (number + 1) * _SHARD))
        written += _shard(work / f"shard-{number:05}.json", writer, chosen, batch_size)
        progress.advance("generate", len(written), len(rows))
    silent = [i for i, answer in enumerate(written) if not answer.strip()]
    for i in silent:
        written[i] = task.train.texts_b[i]
    lines = (
        json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False)
        for prompt, answer in zip(task.train.texts, written, strict=True)
    )
    write_atomic(draft.folder / ANSWERS, "".join(f"{line}\n" for line in lines))
    draft.facts.update(
        rows=len(written), silent=len(silent), beams=settings.beams, closest=settings.closest
    )
    if silent:
        progress.say(
            f"generate: the teacher says nothing to {len(silent)} of {len(written)} prompts; "
            "they keep their answers"
        )


def _shard(path: Path, writer: _Writer, chosen: range, batch_size: int) -> list[str]:
    """Return the answers of a shard, read where it is finished, else made and written."""
    if path.is_file():
        return [str(answer) for answer in json.loads(path.read_text(encoding="utf-8"))]
    # Prompts of like length together: padding is work, and can move a close call.
    order = sorted(chosen, key=lambda i: len(writer.rows.features[i]["input_ids"]))
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        answers.update(zip(part, writer.answers(part), strict=True))
    made = [answers[i] for i in chosen]
    write_atomic(path, json.dumps(made))
    return made


def with_generated(task: TaskData, artifact: Artifact) -> TaskData:
    """Return the task with the generated answers for training; dev and test stay as they are."""
    lines = artifact.path(ANSWERS).read_text(encoding="utf-8").split("\n")[:-1]
    answers = tuple(str(json.loads(line)["answer"]) for line in lines)
    train: Split = replace(task.train, texts_b=answers)
    return replace(task, train=train)


def likeness(candidate: Sequence[int], reference: Sequence[int], *, order: int = 4) -> float:
    """Return the smoothed sentence BLEU of two sequences of tokens, in [0, 1].

    Counts of n-grams longer than one are raised by one (Lin and Och 2004), as Kim and Rush use it.
    """
    if not candidate or not reference:
        return 0.0
    total = 0.0
    for n in range(1, order + 1):
        found, wanted = _grams(candidate, n), _grams(reference, n)
        right = sum((found & wanted).values()) + (n > 1)
        if not right:
            return 0.0
        total += math.log(right / (sum(found.values()) + (n > 1)))
    brevity = min(0.0, 1 - len(reference) / len(candidate))
    return math.exp(brevity + total / order)


def _grams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
