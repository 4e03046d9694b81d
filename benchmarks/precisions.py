"""Compare the precisions of one classifier: size, CPU time, closeness to fp32, the task's metric.

    python benchmarks/precisions.py --model DIR --data DIR [--out benchmarks/precisions]

Every file is made from one fp32 export, those that look at texts with 128 rows of train. All are
timed on one thread, alternately: each round asks each of them in a new order, and ratios are taken
within a round, so that a busy machine slows both sides of a ratio. The figure of a round is the
median of its runs; the table shows the median over rounds and ratios with their quartiles. What
counts is the CPU time of the one thread that does all the work: on a shared machine wall time also
counts the neighbours. The metric, the agreement and the cosines are of every dev row, asked by
itself, against fp32.
"""

import argparse
import json
import logging
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from toolchain.bench.environment import environment
from toolchain.data.batching import in_order
from toolchain.data.sources import TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.export.formats.onnx import export
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.optimize.precision import FP32, precisions
from toolchain.optimize.simplify import simplify
from toolchain.stats import ratio_of_rounds
from toolchain.steps.calibrate import calibration_rows
from toolchain.steps.folders import data_for

Feed = Mapping[str, np.ndarray]
_MAX_TOKENS = 128


@dataclass
class Contender:
    """One file; `rounds_ms` holds one median of CPU time per round, by length."""

    name: str
    path: Path
    made_s: float = 0.0
    notes: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    rounds_ms: dict[int, list[float]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def open(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        return ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])


def contenders(model: Path, task: TaskData, names: Sequence[str], folder: Path) -> list[Contender]:
    plain, fp32 = folder / "plain.onnx", folder / "fp32.onnx"
    if not fp32.is_file():
        export(load_classifier(model), plain)
        simplify(plain, fp32)
    rows = calibration_rows(model, task, max_tokens=_MAX_TOKENS, seed=0)
    group = [Contender(FP32, fp32)]
    for name in names:
        print(f"making {name}", file=sys.stderr)
        out, start = folder / f"{name}.onnx", time.process_time()
        facts = precisions.get(name).write(fp32, out, rows)
        group.append(Contender(name, out, time.process_time() - start, facts.notes))
    return group


def score(group: Sequence[Contender], model: Path, task: TaskData) -> None:
    rows = tokenize_split(load_tokenizer(model), task.dev, task, max_tokens=_MAX_TOKENS)
    batches = list(in_order(rows, 1))
    feeds = [{name: t.numpy() for name, t in batch.inputs.items()} for batch in batches]
    labels = np.array([int(batch.labels[0]) for batch in batches])
    reference = np.empty(0)
    for contender in group:
        print(f"scoring {contender.name}", file=sys.stderr)
        session = contender.open()
        found = np.concatenate([session.run(["logits"], feed)[0] for feed in feeds])
        reference = found if contender.name == FP32 else reference
        rowwise = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
        whole = np.linalg.norm(found) * np.linalg.norm(reference)
        contender.scores = {
            "accuracy": float((found.argmax(1) == labels).mean()),
            "agreement": float((found.argmax(1) == reference.argmax(1)).mean()),
            "cosine": float((found * reference).sum() / whole),
            "row_cosine": float(((found * reference).sum(1) / rowwise).mean()),
            "mean_abs": float(np.abs(found - reference).mean()),
        }


def measure(group: Sequence[Contender], tokens: int, rounds: int, runs: int) -> None:
    generator = np.random.default_rng(tokens)
    ids = generator.integers(1000, 30000, (1, tokens))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    order = [(contender, contender.open()) for contender in group]
    shuffle = random.Random(tokens)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for contender, session in order:
            session.run(None, feed)
            taken = []
            for _ in range(runs):
                start = time.thread_time_ns()
                session.run(None, feed)
                taken.append(time.thread_time_ns() - start)
            contender.rounds_ms.setdefault(tokens, []).append(statistics.median(taken) / 1e6)


def markdown(group: Sequence[Contender], about: Mapping[str, object]) -> str:
    lengths = list(group[0].rounds_ms)
    heads = [f"ms at {n} | of fp32's speed at {n}" for n in lengths]
    lines = ["# Precisions of one classifier", "", f"    {about['command']}", ""]
    lines += [f"{about['cpu']}, one thread, load {about['load']}; {about['packages']}", ""]
    lines += [
        "Median CPU ms of one text by length in tokens, over rounds in which all were asked in"
    ]
    lines += [
        "turn; speed as the median ratio of fp32's time to theirs within rounds, quartiles in"
    ]
    lines += [
        f"brackets. The machine was shared: CPU time of the working thread, {about['rounds']} short"
    ]
    lines += [f"rounds. Against fp32 on {about['rows']} dev rows, each asked by itself.", ""]
    lines += [
        f"| precision | MB | {' | '.join(heads)} | accuracy | agreement | cosine | mean abs |"
    ]
    lines += [f"|---|---:|{'---:|---|' * len(lengths)}---:|---:|---:|---:|"]
    for contender in group:
        cells = []
        for n in lengths:
            ratio = ratio_of_rounds(group[0].rounds_ms[n], contender.rounds_ms[n])
            cells.append(f"{statistics.median(contender.rounds_ms[n]):.3f}")
            cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        s = contender.scores
        lines += [
            f"| {contender.name} | {contender.bytes / 1e6:.1f} | {' | '.join(cells)} | "
            f"{s['accuracy']:.4f} | {s['agreement']:.4f} | {s['cosine']:.5f} | "
            f"{s['mean_abs']:.3f} |"
        ]
    lines += ["", "CPU time to make each, and what it chose:", ""]
    lines += [
        f"- {c.name}: {c.made_s:.0f} s{''.join(f'; {note}' for note in c.notes)}" for c in group[1:]
    ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a classifier")
    parser.add_argument("--data", type=Path, required=True, help="its task's folder")
    parser.add_argument("--precisions", nargs="+", default=list(precisions.names()))
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=5, help="runs of one file in one round")
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    task = data_for(chosen.model, str(chosen.data))
    with tempfile.TemporaryDirectory() as aside:
        folder = chosen.work or Path(aside)
        group = contenders(chosen.model, task, chosen.precisions, folder)
        for tokens in chosen.lengths:
            print(f"measuring {tokens} tokens", file=sys.stderr)
            measure(group, tokens, chosen.rounds, chosen.runs)
        score(group, chosen.model, task)
        machine = environment()
        options = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
        about = {
            "command": shlex.join(["python", "benchmarks/precisions.py", *options]),
            **machine,
            "rounds": chosen.rounds,
            "rows": len(task.dev),
            "packages": ", ".join(
                f"{name} {machine['packages'][name]}"
                for name in ("torch", "transformers", "onnx", "onnxruntime")
            ),
        }
        text = markdown(group, about)
        print(text)
        if chosen.out:
            chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
            content = {
                "environment": machine,
                "command": about["command"],
                "contenders": [
                    {**{k: v for k, v in vars(c).items() if k != "path"}, "bytes": c.bytes}
                    for c in group
                ],
            }
            chosen.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
