"""`toolchain study` end to end: killed, gone on with, and what it leaves."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_questions import asked
from tests.integration.test_tasks import labelled, scored, tagged, write_jsonl
from toolchain.__main__ import main
from toolchain.config import read_yaml
from toolchain.study.asked import AXES

QUICK = ["--layers", "2", "--max-steps", "3", "--threads", "1", "train.lr=3e-3"]


def events(output: Path, kind: str) -> Counter[str]:
    lines = (output / "events.jsonl").read_text().splitlines()
    # A kill may have cut a line short.
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return Counter(event["step"] for event in whole if event["event"] == kind)


def test_a_killed_study_goes_on_and_repeats_nothing(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    words = ["study", "--teacher", str(teacher_folder), "--data", str(task_folder), *QUICK]
    words += ["--budget", "90s", "--seeds", "2", "-o", str(output)]
    child = subprocess.Popen([sys.executable, "-m", "toolchain", *words], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (output / ".run" / "labels-0" / "manifest.json").is_file():
        assert time.monotonic() < until
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    before = events(output, "finished")
    assert {"speed", "base-0", "labels-0"} <= set(before)
    assert not (output / "study.json").exists()

    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((output / "study.json").read_text())
    finished = events(output, "finished")
    assert set(finished.values()) == {1}
    assert set(before) <= set(events(output, "skipped"))
    assert [axis["axis"] for axis in told["axes"]][: len(AXES)] == list(AXES)
    check_samples(told, finished)
    page, text = ((output / name).read_text() for name in ("study.html", "study.md"))
    assert page.count("<svg") == len(told["axes"])
    assert "http" not in page.replace("http-equiv", "")
    for axis in told["axes"]:
        assert axis["guideline"]["sentence"] in text
    # What it recommends is a recipe that compress takes.
    assert read_yaml(output / "guideline.yaml")["student"]["layers"] == 2
    assert (
        main(["compress", str(output / "guideline.yaml"), "--dry-run", "-o", str(output / "x")])
        == 0
    )


def check_samples(told: dict[str, Any], finished: Counter[str]) -> None:
    """Every variant has every seed, each sample a step of its own, and equal seeds are paired."""
    samples = {(s["variant"], s["seed"]): s for s in told["samples"]}
    variants = {variant for variant, _ in samples}
    assert {"base", "labels", "knowledge-logits", "initialisation-random"} <= variants
    assert set(samples) == {(variant, seed) for variant in variants for seed in (0, 1)}
    assert {f"{variant}-{seed}" for variant, seed in samples} <= set(finished)
    assert all(0 <= sample["metric"] <= 1 for sample in samples.values())
    assert told["schedule"]["steps"] == 3
    knowledge = told["axes"][0]
    logits = next(c for c in knowledge["choices"] if c["choice"] == "logits")
    expected = [
        samples["knowledge-logits", s]["metric"] - samples["base", s]["metric"] for s in (0, 1)
    ]
    assert logits["differences"] == expected


def test_a_bare_encoder_is_fine_tuned_first_and_one_seed_has_no_interval(
    encoder_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    words = ["study", "--teacher", str(encoder_folder), "--data", str(task_folder), *QUICK]
    words += ["--budget", "60s", "--seeds", "1", "--axis", "knowledge", "-o", str(output)]
    assert main(words) == 0
    assert "one seed cannot tell it from chance" in capsys.readouterr().out
    told = json.loads((output / "study.json").read_text())
    assert {choice["ci95"] for choice in told["axes"][0]["choices"]} == {None}
    assert "teacher" in {step["name"] for step in told["steps"]}
    assert "With one seed there are no intervals" in (output / "study.md").read_text()
    assert main([*words, "--seeds", "2"]) == 2
    assert "study.seeds was 1, is 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (labelled, "micro_f1"),
        (scored, "pearson"),
        (tagged, "entity_f1"),
        (asked, "answer_f1"),
    ],
)
def test_other_tasks_are_studied_by_their_own_metric(
    make: Callable[[random.Random], dict[str, object]],
    metric: str,
    encoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_jsonl(tmp_path / "data", make, train=120, dev=40)
    words = ["study", "--teacher", str(encoder_folder), "--data", str(data), *QUICK]
    words += ["--budget", "60s", "--seeds", "1", "--axis", "knowledge", "--json"]
    assert main([*words, "-o", str(tmp_path / "study")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["task"]["metric"] == metric
    assert len(told["axes"][0]["choices"]) == 5
    assert told["refused"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "soon"], "'soon' is not a duration"),
        (["--budget", "0s"], "'0s' is not a duration"),
        (["--budget", "infh"], "finite"),
        (["--axis", "depth"], "found 'depth'"),
        (["--axis", "sise"], "did you mean 'size'?"),
        (["method=kd"], "method is set"),
        (["train.lr=fast"], "train.lr"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    words: list[str],
    said: str,
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    assert main(["study", *given, *words, "-o", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("error:") == 1
    assert not (tmp_path / "x").exists()


def test_a_dry_run_lists_the_experiments_and_writes_nothing(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1"]
    assert main(["study", *given, "--dry-run", "-o", str(tmp_path / "x")]) == 0
    said = capsys.readouterr().out
    assert "attention scores" in said
    assert "estimated" in said
    assert "not tried: last (matching): the same as uniform" in said
    assert not (tmp_path / "x").exists()
