"""What int8 costs a task's metric: classifiers, a regressor and a tagger, quantised and verified.

    python benchmarks/drop.py --shared ../shared [--tasks mrpc stsb snips sst2] [--work drop-work]

The encoder of `minilm-l6-sst2` is fine-tuned on each task by `toolchain finetune` (sst2 has its
classifier already), exported, quantised in each precision and verified by the stage commands,
one row at a time as a device reads them. The table holds what `toolchain verify` wrote: the task's
metric on dev for fp32 and for each file. Steps that are done are not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.bench.environment import environment
from toolchain.models.loading import load_classifier, load_tokenizer

PRECISIONS = ("int8", "int8_smooth", "int8_mixed")
# Overrides of `toolchain finetune`, by task.
TASKS: Mapping[str, Sequence[str]] = {
    "sst2": (),
    "mrpc": ("finetune.epochs=4", "finetune.lr=5e-5"),
    "stsb": ("finetune.epochs=3", "finetune.lr=5e-5"),
    "snips": ("data.task=tag", "finetune.epochs=2", "finetune.lr=1e-4"),
}
# Slots are in the JSON lines; beside them lie the intents, as TSV.
SPLITS = {"snips": ("train.jsonl.gz", "dev.jsonl", "test.jsonl", "tags.txt")}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and models/")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--work", type=Path, default=Path("drop-work"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/drop"))
    parser.add_argument("--max-steps", type=int, help="of fine-tuning: to try the script")
    options = parser.parse_args()
    results = [_measured(options, task) for task in options.tasks]
    _write(options.out, results)


def _measured(options: argparse.Namespace, task: str) -> dict[str, Any]:
    work = options.work / task
    work.mkdir(parents=True, exist_ok=True)
    given = (options.shared / "models" / "minilm-l6-sst2").resolve()
    data = _data(options.shared / "data" / task, work / "data", SPLITS.get(task))
    teacher = work / "teacher"
    if task == "sst2":
        teacher = given
    elif not teacher.is_dir():
        cap = ("--max-steps", options.max_steps) if options.max_steps else ()
        bare = _bare(given, options.work / "encoder")
        _run("finetune", "--teacher", bare, "--data", data, "-o", teacher, *cap, *TASKS[task])
    exported = work / "exported"
    if not exported.is_dir():
        _run("export", teacher, "-o", exported)
    found: dict[str, Any] = {"task": task, "precisions": {}}
    for precision in PRECISIONS:
        quantised, verified = work / precision, work / f"{precision}-verified"
        if not quantised.is_dir():
            _run("quantize", exported, "--precision", precision, "--data", data, "-o", quantised)
        if not verified.is_dir():
            # A gate that is not met is a finding, not a failure.
            args = ("--against", exported, "--data", data, "-o", verified)
            _run("verify", quantised, *args, allowed=(0, 3))
        found["precisions"][precision] = json.loads((verified / "verify.json").read_text())
    return found


def _data(source: Path, target: Path, files: Sequence[str] | None) -> Path:
    """Return the task's folder, with links to these files alone where it holds two tasks."""
    if files is None:
        return source.resolve()
    target.mkdir(exist_ok=True)
    for name in files:
        if not (target / name).exists():
            (target / name).symlink_to((source / name).resolve())
    return target


def _bare(source: Path, target: Path) -> Path:
    """Save the encoder of a classifier, once."""
    if not target.is_dir():
        load_classifier(source).base_model.save_pretrained(target)
        load_tokenizer(source).save_pretrained(target)
    return target


def _run(*words: object, allowed: Sequence[int] = (0,)) -> None:
    command = [sys.executable, "-m", "toolchain", *map(str, words)]
    print(" ".join(command[2:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"exit code {done.returncode}")


def _write(out: Path, results: Sequence[Mapping[str, Any]]) -> None:
    command = "python benchmarks/drop.py --shared ../shared"
    record = {"command": command, "environment": environment(), "results": results}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    machine = record["environment"]
    lines = [
        "# What int8 costs a task's metric", "", f"    {command}", "",
        f"{machine['cpu']}; MiniLM-L6 fine-tuned on each task, one seed; rows one by one. Points",
        "are hundredths of the metric, int8 less fp32; asked are 0.3 lost at most.", "",
        *_table(results),
    ]  # fmt: skip
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| task | metric | rows | fp32 | precision | its metric | points | test: fp32, it |"]
    lines.append("|---|---|---:|---:|---|---:|---:|---|")
    for result in results:
        for precision, proof in result["precisions"].items():
            fp32, own = proof["metrics"]["parent"], proof["metrics"]["model"]
            name = f"test_{fp32['name']}"
            tested = " ".join(
                f"{m['others'][name]:.4f}" for m in (fp32, own) if name in m["others"]
            )
            lines.append(
                f"| {result['task']} | {fp32['name']} | {fp32['rows']} | {fp32['value']:.4f} "
                f"| {precision} | {own['value']:.4f} | {100 * (own['value'] - fp32['value']):+.2f} "
                f"| {tested} |"
            )
    return lines


if __name__ == "__main__":
    main()
