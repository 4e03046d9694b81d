"""Prove that this folder is whole and that this machine computes what its makers saw.

    python selftest.py [--json]

Three checks, each against what was recorded when the folder was made: every file's sha256
(manifest.json); the token ids of every row of golden.jsonl; the model's output for these rows.
fp32 is compared figure by figure. int8 is not the same to the last bit on every CPU, so it is
compared by the direction of its output and by its decisions, leaving out decisions that were too
close to call where the folder was made; the scores of a regression by their distance, vectors by
their direction alone.

Exit codes: 0 PASS, 4 something differs (one sentence each).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import operator
import platform
import runpy
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Findings", "examine", "main"]

MANIFEST = "manifest.json"
NEEDED = (
    "bundle.json",
    "golden.jsonl",
    "model.onnx",
    "selftest.py",
    "tokenizer.json",
)


@dataclass
class Findings:
    """What was found: problems fail the test, notes do not, figures are for the record."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)


class Array(Protocol):
    """What is needed of a NumPy array."""

    def __getitem__(self, index: int) -> Array:
        """Return one entry along the first axis."""

    def tolist(self) -> Any:
        """Return it as nested lists."""


class Model(Protocol):
    """What is needed of the class that this folder's own script offers."""

    labels: tuple[str, ...]
    task: str
    runtime_version: str

    def encode(self, rows: Sequence[tuple[str, ...]]) -> Mapping[str, Array]:
        """Return ids, mask and type ids of some rows."""

    def logits(self, feed: Mapping[str, Array]) -> Array:
        """Return the model's output for them."""

    def generate(self, text: str, count: int) -> Iterator[int]:
        """Yield the tokens that follow a text, of a model that goes on with texts."""


@dataclass(frozen=True)
class Answer:
    """One recorded answer: which row, and which of its tokens where each has one; output, decision.

    The decision is a label, the labels that hold, a token's id, or None for a score or a vector.
    `outcomes` are the tokens whose figures were recorded, where these are not all.
    """

    row: int
    text: str
    position: int | None
    logits: list[float]
    decision: str | int | list[str] | None
    outcomes: list[int] | None = None

    def __str__(self) -> str:
        """Where it is, with the beginning of the text, everything but ASCII escaped."""
        text = json.dumps(self.text)
        text = text if len(text) <= 40 else text[:36] + '..."'
        place = "" if self.position is None else f"token {self.position}, "
        return f"row {self.row + 1}, {place}{text}"

    def of(self, output: Array) -> list[float]:
        """Return what of the output of its row is compared with what was recorded."""
        whole = output if self.position is None else output[self.position]
        figures: list[float] = whole.tolist()
        return figures if self.outcomes is None else [figures[i] for i in self.outcomes]


@dataclass(frozen=True)
class Golden:
    """One recorded row: texts or words, token ids, type ids, answers, tokens that follow."""

    texts: tuple[str, ...]
    ids: list[int]
    type_ids: list[int]
    answers: list[Answer]
    continuation: list[int]


def examine(folder: Path) -> Findings:
    """Examine a bundle; outputs are computed only from files that are what they were."""
    findings = Findings()
    files = _check_files(folder, findings)
    if findings.problems:
        findings.notes.append("tokens and outputs were not checked, as files differ")
        return findings
    damaged: type[Exception] = ValueError
    try:
        about = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        script, name = str(about["program"]["script"]), str(about["program"]["name"])
        if script not in files:
            findings.problems.append(f"{MANIFEST} does not list {script}")
            return findings
        module = _load(folder / script, findings)
        if module is None:
            return findings
        damaged = module["BundleError"]
        rows = _read_golden(folder / "golden.jsonl")
        model: Model = module[name](folder)
        _check_versions(about, model, findings)
        if _check_tokens(rows, model, findings):
            _check_outputs(rows, model, about["tolerances"], findings)
            _check_continuations(rows, model, findings)
    except damaged as error:
        findings.problems.append(str(error))
    except (OSError, KeyError, TypeError, ValueError) as error:
        findings.problems.append(f"bundle.json or golden.jsonl is malformed: {error!r}")
    return findings


def _load(script: Path, findings: Findings) -> dict[str, Any] | None:
    try:
        return runpy.run_path(str(script))
    except ImportError as error:
        findings.problems.append(f"{error}: run `pip install -r requirements.txt` first")
        return None


def _check_files(folder: Path, findings: Findings) -> Mapping[str, str]:
    """Compare every file with the manifest, which is returned, and that with its own digest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
        recorded = str(manifest["digest"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        findings.problems.append(f"{MANIFEST} cannot be read: {error!r}")
        return {}
    for name, expected in sorted(files.items()):
        problem = _file_problem(folder, name, expected)
        if problem:
            findings.problems.append(problem)
    for name in NEEDED:
        if name not in files:
            findings.problems.append(f"{MANIFEST} does not list {name}")
    if _digest(files) != recorded:
        findings.problems.append(f"{MANIFEST} was changed: its digest is not that of its files")
    findings.figures.update(files=len(files), digest=recorded)
    _note_extra_files(folder, files, findings)
    return files


def _file_problem(folder: Path, name: str, expected: str) -> str:
    """Return what is wrong with one listed file, or an empty string."""
    outside = f"{MANIFEST} lists {name!r}, which points outside this folder"
    if not name or "\\" in name or ":" in name or ".." in name.split("/"):
        return outside
    root, path = folder.resolve(), (folder / name).resolve()
    if root not in path.parents:
        return outside
    if not path.is_file():
        return f"{name} is missing"
    found = _sha256(path)
    if found != expected:
        return f"{name} was changed: sha256 {found[:12]} is not the recorded {expected[:12]}"
    return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _digest(files: Mapping[str, str]) -> str:
    text = json.dumps(sorted(files.items()), separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _note_extra_files(folder: Path, files: Mapping[str, str], findings: Findings) -> None:
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    extra = sorted(present - set(files) - {MANIFEST})
    for name in extra[:5]:
        findings.notes.append(f"{name} is no part of the bundle")
    if len(extra) > 5:
        findings.notes.append(f"{len(extra) - 5} more files are no part of the bundle")


def _check_versions(about: Mapping[str, Any], model: Model, findings: Findings) -> None:
    """Record what computes here; an older runtime than asked for is worth a note."""
    minimum, found = str(about["runtime"]["minimum"]), model.runtime_version
    if _version(found) < _version(minimum):
        findings.notes.append(f"onnxruntime {found} is older than {minimum}, which is asked for")
    findings.figures.update(
        target=str(about["target"]["name"]),
        precision=str(about["precision"]),
        onnxruntime=found,
        python=platform.python_version(),
        machine=platform.machine(),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:3] if part.isdigit())


def _read_golden(path: Path) -> list[Golden]:
    rows: list[Golden] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            texts = tuple(row["words"] if "words" in row else _texts(row))
            answers = _answers(row, len(rows), " ".join(texts[:1] if "text" in row else texts))
            more = row.get("continuation", [])
            rows.append(Golden(texts, row["input_ids"], row["token_type_ids"], answers, more))
    if not any(row.answers for row in rows):
        raise ValueError("golden.jsonl holds no rows")
    return rows


def _texts(row: Mapping[str, Any]) -> list[str]:
    return [row["text"], row["text_b"]] if "text_b" in row else [row["text"]]


def _answers(row: Mapping[str, Any], number: int, text: str) -> list[Answer]:
    """Return what a line of golden.jsonl records: one answer, or one for each of some tokens."""
    if "positions" not in row:
        decision = row.get("label", row.get("labels"))
        return [Answer(number, text, None, row["logits"], decision)]
    decisions, count = row.get("tags", row.get("tokens")), len(row["positions"])
    outcomes = row.get("outcomes", [None] * count)
    return [
        Answer(number, text, row["positions"][i], row["logits"][i], decisions[i], outcomes[i])
        for i in range(count)
    ]


def _check_tokens(rows: Sequence[Golden], model: Model, findings: Findings) -> bool:
    """Compare token and type ids of every row; returns whether all are equal."""
    wrong = []
    for number, row in enumerate(rows, start=1):
        feed = model.encode([row.texts])
        ids, type_ids = feed["input_ids"].tolist()[0], feed["token_type_ids"].tolist()[0]
        if ids != row.ids or type_ids != row.type_ids:
            wrong.append(str(row.answers[0]) if row.answers else f"row {number}")
    findings.figures.update(rows=len(rows))
    if wrong:
        findings.problems.append(
            f"the tokens of {len(wrong)} of {len(rows)} golden rows differ, first {wrong[0]}"
        )
    return not wrong


def _check_outputs(
    rows: Sequence[Golden], model: Model, tolerances: Mapping[str, Any], findings: Findings
) -> None:
    """Run every row and judge the outputs by the tolerances of this precision."""
    answers = [answer for row in rows for answer in row.answers]
    found = _outputs(rows, model, 1)
    for index, answer in enumerate(answers):
        problem = _answer_problem(answer, found[index], model)
        if problem:
            findings.problems.append(f"{answer}: {problem}")
            return
    if "max_abs" in tolerances:
        _judge_exact(answers, found, float(tolerances["max_abs"]), "", findings)
        padded = _outputs(rows, model, 8)
        _judge_exact(answers, padded, float(tolerances["max_abs"]), " in a padded batch", findings)
    elif model.task == "regress":
        _judge_scores(answers, found, tolerances, findings)
    else:
        _judge_direction(answers, found, tolerances, model.task, findings)


def _check_continuations(rows: Sequence[Golden], model: Model, findings: Findings) -> None:
    """Go on with each text, token by token, as far as that was clear where this was made."""
    wrong = []
    asked = [row for row in rows if row.continuation]
    for row in asked:
        found = list(model.generate(row.texts[0], len(row.continuation)))
        if found != row.continuation:
            wrong.append(str(row.answers[0]) if row.answers else row.texts[0])
    if asked:
        findings.figures.update(continued=len(asked) - len(wrong))
    if wrong:
        findings.problems.append(
            f"{len(wrong)} of {len(asked)} texts are gone on with otherwise, first {wrong[0]}"
        )


def _answer_problem(answer: Answer, logits: list[float], model: Model) -> str:
    """Return why an answer cannot be compared at all, or an empty string."""
    if len(answer.logits) != len(logits) or not all(map(math.isfinite, answer.logits)):
        return f"golden.jsonl records an output of {answer.logits}"
    decided = _decided(answer.logits, model.task)
    expected: str | int | list[str] | None = None
    if model.task == "multi_label":
        expected = [model.labels[i] for i in decided]
    elif answer.outcomes is not None:
        expected = answer.outcomes[decided[0]]
    elif decided:
        expected = model.labels[decided[0]]
    if answer.decision != expected:
        return "golden.jsonl records a label that is not that of its output"
    if not all(map(math.isfinite, logits)):
        return f"the output is {logits}"
    return ""


def _outputs(rows: Sequence[Golden], model: Model, size: int) -> list[list[float]]:
    """Return what is found for every recorded answer, asking about so many rows at a time."""
    found: list[list[float]] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        output = model.logits(model.encode([row.texts for row in part]))
        for place, row in enumerate(part):
            found += [answer.of(output[place]) for answer in row.answers]
    return found


def _of_tokens(answers: Sequence[Answer]) -> bool:
    return answers[0].position is not None


def _what(answers: Sequence[Answer]) -> str:
    """Return what was recorded an answer for: rows, or tokens of them."""
    return "golden tokens" if _of_tokens(answers) else "golden rows"


def _judge_exact(
    answers: Sequence[Answer],
    found: Sequence[list[float]],
    limit: float,
    how: str,
    findings: Findings,
) -> None:
    distances = [
        max(map(abs, map(operator.sub, answer.logits, found[index])))
        for index, answer in enumerate(answers)
    ]
    worst = max(range(len(answers)), key=distances.__getitem__)
    findings.figures.update({"max_abs_padded" if how else "max_abs": distances[worst]})
    wrong = [distance for distance in distances if not distance <= limit]
    if wrong:
        findings.problems.append(
            f"the output of {len(wrong)} of {len(answers)} {_what(answers)} differs{how} by more "
            f"than {limit:g}, most ({distances[worst]:.3g}) in {answers[worst]}"
        )


def _judge_direction(
    answers: Sequence[Answer],
    found: Sequence[list[float]],
    tolerances: Mapping[str, Any],
    task: str,
    findings: Findings,
) -> None:
    """Judge int8: cosines and decisions of the answers that were clear where this was made."""
    margins = [_margin(answer.logits, task) for answer in answers]
    # A vector decides nothing, so that none is too close to call.
    close = float(tolerances.get("close_call", 0)) * statistics.median(margins)
    clear = [index for index, margin in enumerate(margins) if margin >= close]
    cosines = {index: _cosine(answers[index].logits, found[index]) for index in clear}
    low = [index for index in clear if not cosines[index] >= float(tolerances["row_cosine"])]
    changed = [
        i
        for i, answer in enumerate(answers)
        if _decided(answer.logits, task) != _decided(found[i], task)
    ]
    mean = sum(cosines.values()) / len(cosines)
    findings.figures.update(mean_cosine=mean, min_cosine=min(cosines.values()))
    if task != "embed":
        findings.figures.update(
            agreement=1 - len(changed) / len(answers), close_calls=len(answers) - len(clear)
        )
    what = _what(answers)
    if len(clear) < len(answers):
        findings.notes.append(
            f"{len(answers) - len(clear)} of {len(answers)} {what.split()[1]} were too close to "
            f"call where this was made (margin under {close:.3g}) and are not judged; "
            f"{len(set(changed) - set(clear))} of them decide otherwise here"
        )
    if not mean >= float(tolerances["mean_cosine"]):
        findings.problems.append(
            f"the outputs' mean cosine is {mean:.5f}, expected at least {tolerances['mean_cosine']}"
        )
    for said, wrong in (
        (f"have a cosine below {tolerances['row_cosine']}", low),
        (
            "are decided otherwise" if _of_tokens(answers) else "get another label",
            [index for index in changed if index in cosines],
        ),
    ):
        if wrong:
            first = answers[wrong[0]]
            findings.problems.append(f"{len(wrong)} of {len(answers)} {what} {said}: {first}")


def _judge_scores(
    answers: Sequence[Answer],
    found: Sequence[list[float]],
    tolerances: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Judge int8 scores: distances in standard deviations of the recorded ones."""
    spread = statistics.pstdev(answer.logits[0] for answer in answers) or 1.0
    distances = [abs(a.logits[0] - found[i][0]) / spread for i, a in enumerate(answers)]
    worst = max(range(len(answers)), key=distances.__getitem__)
    mean = sum(distances) / len(answers)
    findings.figures.update(mean_distance=mean, max_distance=distances[worst])
    if not mean <= float(tolerances["mean_distance"]):
        findings.problems.append(
            f"the scores differ by {mean:.3g} standard deviations on average, expected at most "
            f"{tolerances['mean_distance']}"
        )
    if not distances[worst] <= float(tolerances["row_distance"]):
        findings.problems.append(
            f"the score of {answers[worst]}, differs by {distances[worst]:.3g} "
            f"standard deviations, expected at most {tolerances['row_distance']}"
        )


def _decided(logits: Sequence[float], task: str) -> list[int]:
    """Return which labels these outputs give; none for a score or a vector."""
    if task in ("embed", "regress"):
        return []
    if task == "multi_label":
        return [i for i, logit in enumerate(logits) if logit > 0]
    return [max(range(len(logits)), key=logits.__getitem__)]


def _margin(logits: Sequence[float], task: str) -> float:
    """Return how far the outputs are from another decision."""
    if task == "multi_label":
        return min(map(abs, logits))
    if task == "embed":
        return math.hypot(*logits)
    first, second = sorted(logits, reverse=True)[:2]
    return first - second


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = math.hypot(*a) * math.hypot(*b)
    return sum(map(operator.mul, a, b)) / product if product else float(a == b)


def _print(findings: Findings, as_json: bool) -> None:
    passed = not findings.problems
    if as_json:
        report = {
            "passed": passed,
            "problems": findings.problems,
            "notes": findings.notes,
            **findings.figures,
        }
        print(json.dumps(report))
        return
    lines = ["PASS" if passed else "FAIL"]
    lines += [f"problem: {problem}" for problem in findings.problems]
    lines += [f"note: {note}" for note in findings.notes]
    for name, value in findings.figures.items():
        lines.append(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    print("\n".join(lines).encode("ascii", "backslashreplace").decode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Prove that this folder is whole and works here.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    findings = examine(Path(__file__).resolve().parent)
    _print(findings, options.json)
    return 4 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
