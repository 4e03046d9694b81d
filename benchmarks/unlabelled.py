"""What texts without labels bring: a student of few labels, with and without its teacher's answers.

    python benchmarks/unlabelled.py --shared ../shared [--labelled 600] [--texts 5400]

The teacher is that of sst2 in `--shared`. Of sst2's training rows some keep their labels, others
lose them (`data.unlabelled`). Every student has the same shape, start and number of steps; the
last row has the labels that the others lack. Seeds draw the start's head and the order of rows, not
the rows. Runs that are done are not done again.
"""

import argparse
import csv
import gzip
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.bench.environment import environment

LAYERS = 3
SETTINGS = ("train.lr=2e-4", "train.batch_size=32", "train.evals=1", "train.epochs=1000",
            "data.max_tokens=64", "threads=1")  # fmt: skip


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and models/")
    parser.add_argument("--labelled", type=int, default=600)
    parser.add_argument("--texts", type=int, nargs="+", default=[5400])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("unlabelled-work"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/unlabelled"))
    options = parser.parse_args()
    few, many = options.labelled, options.labelled + options.texts[0]
    _prepare(options, (few, many))
    runs: list[tuple[str, int, int, str]] = [("labels alone", few, 0, "finetune")]
    runs += [("kd", few, texts, "kd") for texts in (0, *options.texts)]
    runs += [("labels alone", many, 0, "finetune"), ("kd", many, 0, "kd")]
    results: list[dict[str, Any]] = []
    for said, labelled, texts, method in runs:
        found = [_accuracy(options, labelled, texts, method, s) for s in range(options.seeds)]
        results.append({"trained": said, "labels": labelled, "texts": texts, "accuracy": found})
        print(f"{said}, {labelled} labels, {texts} texts: {found}", flush=True)
    _write(options, results)


def _prepare(options: argparse.Namespace, sizes: Sequence[int]) -> None:
    """Write a task of each number of labels, and the texts of rows that follow the first ones."""
    source = options.shared / "data" / "sst2"
    names = json.loads((_teacher(options) / "config.json").read_text())["id2label"]
    train, dev = (_rows(source / f"{split}.tsv", names) for split in ("train", "dev"))
    order = np.random.default_rng(0).permutation(len(train))
    for size in sizes:
        folder = options.work / f"sst2-{size}"
        folder.mkdir(parents=True, exist_ok=True)
        _table(folder / "train.tsv", [train[i] for i in order[:size]])
        _table(folder / "dev.tsv", dev)
    for count in options.texts:
        chosen = order[options.labelled : options.labelled + count]
        texts = "".join(f"{train[i][0]}\n" for i in chosen)
        (options.work / f"texts-{count}.txt").write_text(texts, encoding="utf-8")


def _rows(path: Path, names: dict[str, str]) -> list[tuple[str, str]]:
    packed = path.with_name(f"{path.name}.gz")
    content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    lines = content.decode("utf-8").splitlines()[1:]
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(row[0], names.get(row[-1], row[-1])) for row in rows]


def _table(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    lines = "".join(f"{text}\t{label}\n" for text, label in rows)
    path.write_text(f"text\tlabel\n{lines}", encoding="utf-8")


def _teacher(options: argparse.Namespace) -> Path:
    return Path(options.shared / "models" / "minilm-l6-sst2").resolve()


def _accuracy(
    options: argparse.Namespace, labelled: int, texts: int, method: str, seed: int
) -> float:
    """Return the accuracy on dev of one student after its last step."""
    out = options.work / f"{method}-{labelled}-{texts}-{seed}"
    student = options.work / f"student-{seed}"
    data = options.work / f"sst2-{labelled}"
    given = ["--teacher", str(_teacher(options)), "--data", str(data), f"seed={seed}"]
    if not student.is_dir():
        shape = ["--layers", str(LAYERS), "student.init=teacher_uniform"]
        _run("design", *given, *shape, "-o", str(student))
    if not out.is_dir():
        more = [f"data.unlabelled={options.work / f'texts-{texts}.txt'}"] if texts else []
        trained = ["--student", str(student), "--method", method, "-o", str(out)]
        _run("distill", *given, *trained, "--max-steps", str(options.steps), *SETTINGS, *more)
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    return float(facts["stages"][-1]["evals"][-1]["metric"])


def _run(*words: str) -> None:
    command = [sys.executable, "-m", "toolchain", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def _write(options: argparse.Namespace, results: Sequence[dict[str, Any]]) -> None:
    texts = " ".join(map(str, options.texts))
    command = (
        f"python benchmarks/unlabelled.py --shared ../shared --labelled {options.labelled} "
        f"--texts {texts} --steps {options.steps} --seeds {options.seeds}"
    )
    record = {"command": command, "environment": environment(), "results": results}
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# What texts without labels bring",
        "",
        f"    {command}",
        "",
        f"Student of {LAYERS} of MiniLM-L6's layers, {options.steps} steps of batch 32, sst2's dev "
        f"split (872 rows); mean (lowest to highest) of {options.seeds} seeds.",
        "",
        "| trained with | labels | texts the teacher labels | dev accuracy |",
        "|---|---:|---:|---|",
    ]
    for r in results:
        found = r["accuracy"]
        mean = f"{statistics.mean(found):.4f} ({min(found):.4f} to {max(found):.4f})"
        lines.append(f"| {r['trained']} | {r['labels']} | {r['texts'] or ''} | {mean} |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
