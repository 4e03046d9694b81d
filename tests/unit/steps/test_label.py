"""The teacher's answers to further texts: what they are per task; a kill loses none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.conftest import make_teacher, sentences
from toolchain.artifact import Artifact, drafting
from toolchain.data.sources import Split, TaskData
from toolchain.data.unlabelled import Unlabelled
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Null
from toolchain.steps import label as step
from toolchain.steps.label import label, with_labelled

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(40, seed=9)))


def task_of(kind: str, labels: tuple[str, ...], given: tuple[Any, ...]) -> TaskData:
    train = Split(("one", "two"), None, given, "task/train.tsv")
    return TaskData(
        name="task", task=kind, kind="single", labels=labels, named=True, train=train,  # type: ignore[arg-type]
        dev=train, test=None, digest="", files=(), notes=(),
    )  # fmt: skip


CLASSES = task_of("classify", ("a", "b", "c"), (0, 1))


def texts_of(texts: tuple[str, ...], texts_b: tuple[str, ...] | None = None) -> Unlabelled:
    return Unlabelled(file="more.txt", texts=texts, texts_b=texts_b, found=len(texts), digest="d")


def labelled(
    folder: Path, teacher: Path, task: TaskData, texts: Unlabelled
) -> tuple[TaskData, dict[str, Any]]:
    with drafting(folder / "out", {}) as draft:
        label(
            draft, teacher=teacher, texts=texts, task=task, max_tokens=32, batch_size=8, threads=1,
            work=folder / "work", progress=Null(),
        )  # fmt: skip
    written = Artifact.open(folder / "out")
    return with_labelled(task, written), dict(written.facts)


def said(teacher: Path, kind: str, *sides: str) -> np.ndarray:
    """What the model gives for one row, asked alone."""
    inputs = load_tokenizer(teacher)(*sides, return_tensors="pt")
    model = load_model(teacher, kind).eval()  # type: ignore[arg-type]
    found: np.ndarray = model(**inputs).logits.detach().numpy()[0]
    return found


def test_a_text_gets_the_class_the_teacher_finds_likeliest(
    teacher_folder: Path, tmp_path: Path
) -> None:
    task, facts = labelled(tmp_path, teacher_folder, CLASSES, texts_of(TEXTS))
    assert task.train.texts == ("one", "two", *TEXTS)
    assert task.train.labels[:2] == (0, 1)
    expected = [int(said(teacher_folder, "classify", text).argmax()) for text in TEXTS]
    assert list(task.train.labels[2:]) == expected
    assert len(set(expected)) > 1
    assert facts["said"] == {n: expected.count(i) for i, n in enumerate(("a", "b", "c"))}
    assert (task.dev, facts["rows"]) == (CLASSES.dev, len(TEXTS))


def test_second_texts_are_read(teacher_folder: Path, tmp_path: Path) -> None:
    pair = replace(CLASSES, kind="pair", train=replace(CLASSES.train, texts_b=("x", "y")))
    seconds = TEXTS[::-1]
    task, _ = labelled(tmp_path, teacher_folder, pair, texts_of(TEXTS, seconds))
    assert task.train.texts_b == ("x", "y", *seconds)
    expected = [
        int(said(teacher_folder, "classify", *both).argmax())
        for both in zip(TEXTS, seconds, strict=True)
    ]
    assert list(task.train.labels[2:]) == expected


@pytest.mark.parametrize("kind", ["multi_label", "regress"])
def test_labels_are_those_of_the_task(kind: str, tmp_path: Path) -> None:
    several = kind == "multi_label"
    teacher = make_teacher(tmp_path / "teacher", head=False)
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(teacher, num_labels=3 if several else 1)
    BertForSequenceClassification(config).save_pretrained(teacher)
    task = task_of(kind, ("a", "b", "c") if several else ("score",),
                   ((0, 1, 0), (1, 1, 1)) if several else (0.5, 1.5))  # fmt: skip
    made, facts = labelled(tmp_path, teacher, task, texts_of(TEXTS))
    assert made.train.labels[:2] == task.train.labels
    for text, found in zip(TEXTS, made.train.labels[2:], strict=True):
        expected = said(teacher, kind, text)
        if several:
            assert found == tuple(int(value > 0) for value in expected)
        else:
            assert found == pytest.approx(float(expected[0]), abs=1e-5)
    assert "said" not in facts


def test_finished_shards_are_not_made_again(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_SHARD", 16)
    whole, _ = labelled(tmp_path / "whole", teacher_folder, CLASSES, texts_of(TEXTS))
    asked: list[int] = []
    real = step.logits_of_rows

    def dying(model: Any, rows: Any, **more: Any) -> Any:
        asked.append(len(rows))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, rows, **more)

    monkeypatch.setattr(step, "logits_of_rows", dying)
    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path / "cut", teacher_folder, CLASSES, texts_of(TEXTS))
    again, _ = labelled(tmp_path / "cut", teacher_folder, CLASSES, texts_of(TEXTS))
    assert again.train == whole.train
    # The shard of the first try was read, not made.
    assert sum(asked[2:]) == len(TEXTS) - 16
    assert json.loads((tmp_path / "cut/work/shard-00000.json").read_text()) == list(
        whole.train.labels[2:18]
    )
