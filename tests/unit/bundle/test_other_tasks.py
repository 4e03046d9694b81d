"""Bundles of labels of which several may hold, and of scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from toolchain.errors import UsageError

LABELS = ("kind", "rude", "long")


def quantised(path: Path) -> Path:
    out = path.with_name(f"{path.stem}-int8.onnx")
    quantize_dynamic(path, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    return out


@pytest.fixture(scope="module")
def several(workshop: Any) -> dict[str, Path]:
    model = workshop.save_model("several", classes=3, seed=4)
    asked = {"labels": LABELS, "task": "multi_label"}
    int8 = quantised(model)
    return {
        "fp32": workshop.make("several-fp32", model=model, **asked),
        "int8": workshop.make("several-int8", model=int8, precision="int8", **asked),
    }


@pytest.fixture(scope="module")
def scores(workshop: Any) -> dict[str, Path]:
    model = workshop.save_model("scores", classes=1, seed=2)
    asked = {"labels": ("score",), "task": "regress"}
    int8 = quantised(model)
    return {
        "fp32": workshop.make("scores-fp32", model=model, **asked),
        "int8": workshop.make("scores-int8", model=int8, precision="int8", **asked),
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_label_above_one_half_is_answered(
    several: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(several[precision])
    assert bundle.prove()["problems"] == []
    assert bundle.about()["task"] == "multi_label"
    rows = bundle.golden()
    assert len({tuple(row["labels"]) for row in rows}) > 2
    texts = "".join(f"{row['text']}\n" for row in rows[:4]).encode()
    ran = bundle.run("classify.py", "--json", stdin=texts)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    for row, answer in zip(rows, answers, strict=False):
        assert answer["labels"] == row["labels"]
        expected = 1 / (1 + np.exp(-np.array(row["logits"])))
        assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    lines = bundle.run("classify.py", stdin=texts).stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == [",".join(r["labels"]) for r in rows[:4]]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_score_is_answered_as_it_is(
    scores: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(scores[precision])
    report = bundle.prove()
    assert report["problems"] == []
    rows = bundle.golden()
    assert "label" not in rows[0]
    ran = bundle.run("classify.py", "--json", rows[0]["text"])
    assert json.loads(ran.stdout)["score"] == pytest.approx(rows[0]["logits"][0], abs=1e-5)
    assert set(json.loads(ran.stdout)) == {"text", "score"}
    assert float(bundle.run("classify.py", rows[0]["text"]).stdout) == pytest.approx(
        rows[0]["logits"][0], abs=1e-4
    )
    assert ("max_distance" in report) == (precision == "int8")


def test_a_golden_set_that_is_not_its_outputs_is_found(
    several: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(several["fp32"])
    rows = bundle.golden()
    rows[0]["labels"] = [name for name in LABELS if name not in rows[0]["labels"]]
    bundle.write_golden(rows)
    bundle.reseal()
    assert "a label that is not that of its output" in bundle.examine()["problems"][0]


def test_a_label_that_falls_otherwise_fails_int8(
    several: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(several["int8"])
    rows = bundle.golden()
    rows[0]["logits"] = [-10 * logit for logit in rows[0]["logits"]]
    rows[0]["labels"] = [
        name for name, logit in zip(LABELS, rows[0]["logits"], strict=True) if logit > 0
    ]
    bundle.write_golden(rows)
    bundle.reseal()
    problems = bundle.examine()["problems"]
    assert any("golden rows get another label: row 1" in problem for problem in problems)


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (lambda score, i: score + (0.6 if i == 0 else 0.0), "the score of row 1, "),
        (lambda score, _: score + 0.2, "the scores differ by 0.2 standard deviations on average"),
    ],
)
def test_scores_that_moved_fail_int8(
    scores: dict[str, Path],
    copy_of: Callable[[Path], Any],
    moved: Callable[[float, int], float],
    message: str,
) -> None:
    bundle = copy_of(scores["int8"])
    rows = bundle.golden()
    spread = float(np.std([row["logits"][0] for row in rows]))
    for i, row in enumerate(rows):
        row["logits"] = [spread * moved(row["logits"][0] / spread, i)]
    bundle.write_golden(rows)
    bundle.reseal()
    assert any(message in problem for problem in bundle.examine()["problems"])


def test_the_readme_says_what_is_answered(
    several: dict[str, Path], scores: dict[str, Path], fp32_bundle: Path
) -> None:
    def readme(folder: Path) -> str:
        return (folder / "README.md").read_text(encoding="utf-8")

    assert "which of 3 labels hold: kind, rude, long." in readme(several["int8"])
    assert "the sigmoid of each gives its probability" in readme(several["fp32"])
    assert "It gives texts a score: score." in readme(scores["fp32"])
    assert "classifier.scores(" in readme(scores["fp32"])
    assert "scores within 0.1 standard deviations" in readme(scores["int8"])
    assert "its softmax gives the probabilities" in readme(fp32_bundle)
    assert readme(scores["fp32"]).startswith("# Text scorer for ")
    assert readme(fp32_bundle).startswith("# Text classifier for ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "regress"}, "expected the one name of a score"),
        ({"task": "multi_label", "labels": ()}, "expected one or more labels"),
        ({"task": "encode"}, "no bundle can be made for encode, only for classify, multi_label"),
        ({"task": "mask_lm"}, "expected no labels for mask_lm"),
        ({"labels": ("one",)}, "expected two or more labels"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(
    workshop: Any, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    from toolchain.bundle.bundle import build

    with pytest.raises(UsageError, match=message):
        build(tmp_path, **workshop.arguments(**changed))
