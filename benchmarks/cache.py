"""Time an epoch from a cached teacher against one beside the teacher that runs.

    python benchmarks/cache.py --shared ../shared [--rounds 3] [--rows 640] [--out benchmarks/cache]

A student of 4 x 312 learns from MiniLM-L6 (6 x 384) fine-tuned on sst2, and from a BERT of 12 x 768
with random weights, on the first rows of sst2: one epoch beside the teacher, one from the cache, by
turns, in one process with one thread, in the precision that training chooses here. Figures are
medians of steps, wall and processor time; the first step of every epoch is left out. `break-even`
is after how many epochs filling the cache has paid for itself, from processor time.

Then a decoder, stories260k: bytes a token of its 64 largest logits, and of the whole folder.
"""

import argparse
import gzip
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from toolchain.bench.environment import environment
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.plan import Plan, make_plan
from toolchain.progress import Null
from toolchain.recipe import load_recipe
from toolchain.scale.cached import CachedModel
from toolchain.steps.cache import fill_caches
from toolchain.steps.training import TrainingSetup, split_rows

BATCH = 32
SHAPE = {"layers": 4, "hidden": 312, "heads": 12, "ffn": 1200, "init": "random"}
CASES = {"MiniLM-L6 6 x 384": ("kd", "minilm_v2", "tinybert"), "BERT 12 x 768": ("kd", "minilm_v2")}


class Clock(Null):
    """Notes wall and processor time of every step but the first of a stage."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._last: dict[str, tuple[float, float]] = {}

    def advance(self, task: str, done: int, total: int, **fields: object) -> None:  # noqa: ARG002
        """Take the time since the step before."""
        now = (time.perf_counter(), time.process_time())
        if task in self._last:
            self.wall.append(now[0] - self._last[task][0])
            self.cpu.append(now[1] - self._last[task][1])
        self._last[task] = now


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        figures = _measured(options, Path(work))
        decoder = _decoder(options.shared, Path(work))
    record = {
        "rounds": options.rounds, "rows": options.rows, "cases": figures, "decoder": decoder,
        "environment": environment(),
    }  # fmt: skip
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    options.out.with_suffix(".md").write_text(_page(record))


def _measured(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    small = options.shared / "models" / "minilm-l6-sst2"
    teachers = {"MiniLM-L6 6 x 384": small, "BERT 12 x 768": _large(small, work / "large")}
    found = []
    for name, methods in CASES.items():
        # The larger teacher takes ten times as long.
        rows = options.rows if teachers[name] == small else options.rows // 2
        for method in methods:
            case = _case(teachers[name], options.shared, method, rows, options.rounds, work)
            found.append({"teacher": name, "method": method, "rows": rows, **case})
            print(json.dumps(found[-1]), flush=True)
    return found


def _large(small: Path, folder: Path) -> Path:
    """Save a random BERT of 12 x 768 that reads the same tokens."""
    tokenizer = load_tokenizer(small)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=2)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _plan(teacher: Path, data: Path, method: str, **more: Any) -> Plan:
    values = {
        "teacher": str(teacher),
        "data": {"path": str(data), "max_tokens": 64},
        "student": SHAPE,
        "method": method,
        "baseline": False,
        "threads": 1,
        "train": {"epochs": 1.0, "batch_size": BATCH, "evals": 1},
        **more,
    }
    return make_plan(load_recipe(None, values, []), data)


def _part(shared: Path, rows: int, folder: Path) -> Path:
    """Write the first rows of sst2 as a task of their own."""
    source = shared / "data" / "sst2"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        with gzip.open(source / "train.tsv.gz", "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
        (folder / "train.tsv").write_text("\n".join(lines[: rows + 1]) + "\n", encoding="utf-8")
        for name in ("dev.tsv", "labels.txt"):
            shutil.copy(source / name, folder / name)
    return folder


def _case(
    teacher: Path, shared: Path, method: str, rows: int, rounds: int, work: Path
) -> dict[str, Any]:
    data = _part(shared, rows, work / f"rows-{rows}")
    folder = work / f"{teacher.name}-{method}"
    plan = _plan(teacher, data, method)
    begun = time.process_time()
    (made,) = fill_caches(plan, plan.task, folder, Null())
    filling = time.process_time() - begun
    reading = _plan(teacher, data, method, placement={"teacher": "cached", "cache": str(folder)})
    labels = dict(enumerate(plan.task.labels))
    begun = time.process_time()
    model = load_model(teacher, plan.teacher_spec.task, labels=labels, seed=0)
    loading = time.process_time() - begun
    running = TrainingModel(model=model, family=plan.teacher.family, spec=plan.teacher_spec)
    stored = CachedModel(folder=reading.caches[0].folder, spec=plan.teacher_spec)
    clocks = {"online": Clock(), "cached": Clock()}
    for number in range(rounds):
        for name, own, source in (("online", plan, running), ("cached", reading, stored)):
            _epoch(own, running, [source], clocks[name], work / f"{name}-{number}")
    online = clocks["online"]
    wall, cpu = (
        {name: statistics.median(getattr(clock, kind)) for name, clock in clocks.items()}
        for kind in ("wall", "cpu")
    )
    steps = len(online.cpu) // rounds
    # From medians: single steps of a busy machine take several times as long.
    epoch = {name: steps * value for name, value in cpu.items()}
    saved = epoch["online"] - epoch["cached"]
    return {
        "steps": len(online.cpu),
        "wall_ms": {name: round(1000 * value, 1) for name, value in wall.items()},
        "cpu_ms": {name: round(1000 * value, 1) for name, value in cpu.items()},
        "wall_ratio": round(wall["online"] / wall["cached"], 2),
        "cpu_ratio": round(cpu["online"] / cpu["cached"], 2),
        "fill_cpu_s": round(filling, 2),
        "load_cpu_s": round(loading, 2),
        "epoch_cpu_s": {name: round(value, 2) for name, value in epoch.items()},
        "break_even_epochs": round(filling / saved, 2) if saved > 0 else None,
        "steps_of_an_epoch": steps,
        "bytes": made.bytes,
        "tokens": made.tokens,
        "bytes_per_token": round(made.bytes / made.tokens, 1),
        "keeps": [keep.name for keep in made.keeps],
    }


def _epoch(
    plan: Plan, teacher: TrainingModel, teachers: Sequence[Readable], clock: Clock, work: Path
) -> None:
    """Train one epoch of every stage that reads a teacher, without evaluations."""
    setup = TrainingSetup.of(plan, plan.student.tokenizer)
    rows = split_rows(load_tokenizer(plan.teacher.root), plan.task.train, plan.task, setup)
    model = build_student(teacher.model, teacher.family, plan.student, "random", seed=0)
    student = TrainingModel(model=model, family=teacher.family, spec=plan.student)
    for stage in plan.stages:
        if stage.needs_teacher:
            run = setup.run(stage)
            run = type(run)(**{**vars(run), "keep_best": False, "checkpoint_seconds": 1e9})
            where = work / stage.name
            train(student, teachers, stage.terms, stage.parts, rows, rows, run, where, clock)
    shutil.rmtree(work)


def _decoder(shared: Path, work: Path) -> dict[str, Any]:
    """Return what the 64 largest logits of a real decoder take."""
    text = (shared / "data" / "general_text" / "wiki_sentences.txt").read_text(encoding="utf-8")
    lines = text.splitlines()[:400]
    data = work / "stories"
    data.mkdir()
    for name in ("train", "dev"):
        (data / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    teacher = shared / "models" / "stories260k"
    plan = _plan(teacher, data, "topk_kd", student={"layers": 2})
    (made,) = fill_caches(plan, plan.task, work / "decoder", Null())
    (keep,) = made.keeps
    return {
        "vocabulary": keep.outcomes,
        "top_k": keep.width,
        "tokens": made.tokens,
        "bytes_of_a_row_of_logits": keep.bytes,
        "bytes_per_token": round(made.bytes / made.tokens, 1),
        "bytes": made.bytes,
    }


def _page(record: dict[str, Any]) -> str:
    lines = [
        "# An epoch from a cached teacher",
        "",
        "    python benchmarks/cache.py --shared ../shared",
        "",
        "Student 4 x 312, random start, batches of 32, sst2 rows of at most 64 tokens, one",
        "thread; epochs beside the teacher and from the cache by turns, "
        f"{record['rounds']} rounds.",
        "Medians of steps; `ratio` is online over cached. `break-even`: epochs until filling (the",
        "teacher's loading included) has paid for itself, from processor time, which is the figure",
        "to trust where other work shares the machine.",
        "",
        "| teacher | method | ms a step online | cached | ratio | ratio of processor time | "
        "bytes a token | MB on disk | fill, cpu s | break-even |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in record["cases"]:
        lines.append(
            f"| {case['teacher']} | `{case['method']}` | {case['wall_ms']['online']} | "
            f"{case['wall_ms']['cached']} | {case['wall_ratio']} | {case['cpu_ratio']} | "
            f"{case['bytes_per_token']} | {case['bytes'] / 1e6:.2f} | {case['fill_cpu_s']} | "
            f"{case['break_even_epochs']} |"
        )
    decoder = record["decoder"]
    lines += [
        "",
        f"Decoder (stories260k, {decoder['vocabulary']} tokens in its vocabulary): its "
        f"{decoder['top_k']} largest logits and the rest take "
        f"{decoder['bytes_of_a_row_of_logits']} bytes a token, the folder "
        f"{decoder['bytes_per_token']} with everything in it ({decoder['tokens']:,} tokens). With "
        "a vocabulary above 65,536 ids take four bytes instead of two: 128 bytes more.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
