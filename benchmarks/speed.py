"""Compare our training loop with TextBrewer's GeneralDistiller on identical work, and with a floor.

    python benchmarks/speed.py --shared ../shared [--rounds 5] [--steps 12] [--threads 1]

Teacher minilm-l6-sst2, student 4 x 312 (12 heads), batches of 32 rows of sst2; logits (KL), hidden
states (MSE with a projection) and attention of four pairs of layers. Contenders run by turns, in a
new order every round, and ratios are taken within a round:

- same batches, fp32: both read the very same batches (ours: length buckets) in fp32;
- as users run them: TextBrewer in fp32 on shuffled batches padded to their longest row, ours with
  its defaults (`auto`: bf16 where the CPU computes in it, length buckets);
- floors: forward, backward and AdamW of the student alone, without teacher and terms, on our
  batches, in fp32 and in the precision of `auto`; and `kd` and the relation methods against it.

A round's time of a contender is that of its steps after the first: processor time of this process,
which neighbours on a shared machine disturb less than the clock's (with one thread, both are the
same on a quiet machine; with several, it is the sum of theirs). TextBrewer asks the model for
its attention maps (`output_attentions`), which forces the eager kernel.
"""

import argparse
import copy
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

from toolchain import hardware
from toolchain.bench.environment import environment
from toolchain.data.batching import Batch, Rows, collate, epoch_batches, tokenize
from toolchain.data.sources import load_task
from toolchain.distill.compose import compose
from toolchain.distill.records import PLAIN, StageRun
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import BoundTerm, bind
from toolchain.distill.trainer import train
from toolchain.distill.written import read_terms
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.progress import Null
from toolchain.recipe import Columns, WrittenTerm
from toolchain.stats import ratio_of_rounds

BATCH = 32
PAIRS = ((0, 0), (1, 2), (2, 3), (3, 5), (4, 6))
RELATIONS = ("minilm_v2", "ckd", "mgskd", "rkd")
TERMS = (
    WrittenTerm(knowledge="logits", objective={"kl": {"tau": 4.0}}),
    WrittenTerm(knowledge="emb", transform=["project"], objective="mse"),
    WrittenTerm(knowledge="hidden", match="uniform", transform=["project"], objective="mse"),
    WrittenTerm(knowledge="attn_scores", match="uniform", objective="mse"),
)


class Stopwatch(Null):
    """Notes when each step of our loop ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def advance(self, task: str, done: int, total: int, **fields: object) -> None:  # noqa: ARG002
        """Take the time."""
        self.ends.append(time.process_time())


@dataclass
class Lab:
    """Teacher, data and batches that all contenders share."""

    teacher: TrainingModel
    rows: Rows
    steps: int
    folder: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def student(self, seed: int) -> TrainingModel:
        """Return a new student of 4 x 312."""
        spec = self.teacher.spec.reshaped(layers=4, width=312, heads=12, ffn=1200)
        family = self.teacher.family
        model = build_student(self.teacher.model, family, spec, "random", seed=seed)
        return TrainingModel(model=model, family=family, spec=spec)

    def bucketed(self) -> list[Batch]:
        """Return the batches our loop sees."""
        orders = (epoch_batches(self.rows.lengths, BATCH, seed=1, epoch=e) for e in range(9))
        chosen = itertools.islice(itertools.chain.from_iterable(orders), self.steps)
        return [collate(self.rows, rows) for rows in chosen]

    def shuffled(self) -> list[Batch]:
        """Return batches of rows of any length, as a plain shuffling loader gives them."""
        order = np.random.default_rng(1).permutation(len(self.rows))
        return [
            collate(self.rows, order[i * BATCH : (i + 1) * BATCH].tolist())
            for i in range(self.steps)
        ]


def ours(lab: Lab, terms: Sequence[BoundTerm], *, bf16: bool) -> float:
    """Return samples per second of our loop, the first step left out."""
    run = StageRun(
        name="pred", steps=lab.steps, batch_size=BATCH, lr=1e-4, warmup=0.1, weight_decay=0.01,
        clip=1.0, evals=1, keep_best=False, bf16=bf16, seed=1, metric="accuracy",
        checkpoint_seconds=1e9,
    )  # fmt: skip
    watch = Stopwatch()
    # A teacher that is read in bf16 is not given back in fp32.
    teacher = replace(lab.teacher, model=copy.deepcopy(lab.teacher.model))
    with tempfile.TemporaryDirectory() as work:
        train(
            lab.student(0), [teacher], tuple(terms), PLAIN, lab.rows, lab.rows, run,
            Path(work), watch,
        )  # fmt: skip
    return BATCH * (lab.steps - 1) / (watch.ends[-1] - watch.ends[0])


def theirs(lab: Lab, batches: Sequence[Batch]) -> float:
    """Return samples per second of TextBrewer's loop, the first step left out."""
    student = lab.student(0).model.train()
    teacher = lab.teacher.model.eval()
    config = TrainingConfig(
        output_dir=str(lab.folder / "textbrewer"), log_dir=None, device="cpu", ckpt_frequency=0
    )
    matches = [
        {
            "layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
            "proj": ["linear", 312, 384],
        }
        for s, t in PAIRS
    ]  # fmt: skip
    matches += [
        {
            "layer_T": t - 1, "layer_S": s - 1, "feature": "attention", "loss": "attention_mse",
            "weight": 1,
        }
        for s, t in PAIRS[1:]
    ]  # fmt: skip
    settings = DistillationConfig(temperature=4, intermediate_matches=matches)
    distiller = GeneralDistiller(config, settings, teacher, student, _adaptor, _adaptor)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    starts: list[float] = []
    ready = [_as_mapping(batch) for batch in batches]
    with distiller:
        distiller.train(
            optimizer, _Stamped(ready, starts), num_epochs=1, max_grad_norm=1.0, callback=None
        )
    return BATCH * (len(batches) - 1) / (time.process_time() - starts[1])


def floor(lab: Lab, *, bf16: bool) -> float:
    """Return samples per second of forward, backward and AdamW of the student alone."""
    student = lab.student(0).model.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    started = 0.0
    for i, batch in enumerate(lab.bucketed()):
        if i == 1:
            started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = student(**batch.inputs).logits
        torch.nn.functional.cross_entropy(logits.float(), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return BATCH * (lab.steps - 1) / (time.process_time() - started)


class _Stamped:
    """A loader that notes when each batch was asked for."""

    def __init__(self, batches: Sequence[Mapping[str, Any]], starts: list[float]) -> None:
        self.batches, self.starts = batches, starts

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.batches:
            self.starts.append(time.process_time())
            yield batch


def _as_mapping(batch: Batch) -> dict[str, Any]:
    return {**batch.inputs, "output_hidden_states": True, "output_attentions": True}


def _adaptor(batch: Mapping[str, Any], output: Any) -> dict[str, Any]:
    return {
        "logits": (output.logits,),
        "hidden": output.hidden_states,
        "attention": output.attentions,
        "inputs_mask": batch["attention_mask"],
    }


def _bound(lab: Lab, method: str | None) -> dict[str, tuple[BoundTerm, ...]]:
    """Return the terms of each stage."""
    spec = lab.teacher.spec.reshaped(layers=4, width=312, heads=12, ffn=1200)
    composition = compose(method, {}) if method else compose("", {}, read_terms(TERMS))
    return {
        stage: tuple(bind(term, spec, lab.teacher.spec) for term in terms)
        for stage, terms in composition.stages.items()
    }


def contenders(lab: Lab, eager: Lab) -> dict[str, Callable[[], float]]:
    """Return what is compared, by name."""
    bf16 = hardware.bf16_reason() is not None
    main = _bound(lab, None)["pred"]
    found: dict[str, Callable[[], float]] = {
        "TextBrewer, our batches, fp32": lambda: theirs(eager, eager.bucketed()),
        "TextBrewer, as its users run it": lambda: theirs(eager, eager.shuffled()),
        "ours, fp32": lambda: ours(lab, main, bf16=False),
        "ours, auto": lambda: ours(lab, main, bf16=bf16),
        "floor, fp32": lambda: floor(lab, bf16=False),
        "floor, auto": lambda: floor(lab, bf16=bf16),
    }
    for name in ("kd", *RELATIONS):
        for stage, terms in _bound(lab, name).items():
            found[f"{name} {stage}, auto"] = lambda terms=terms: ours(lab, terms, bf16=bf16)
    return found


RATIOS = (
    ("ours, fp32", "TextBrewer, our batches, fp32"),
    ("ours, auto", "TextBrewer, as its users run it"),
)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.shared / "models" / "minilm-l6-sst2"
    found = inspect(str(folder))
    task = load_task(str(options.shared / "data" / "sst2"), columns=Columns(), teacher_labels=None)
    size = BATCH * options.steps * 4
    rows = tokenize(
        load_tokenizer(folder), task.train.texts[:size], None, task.train.labels[:size],
        max_tokens=128,
    )  # fmt: skip

    def lab() -> Lab:
        teacher = TrainingModel(model=load_classifier(folder), family=found.family, spec=found.spec)
        return Lab(teacher, rows, options.steps, options.out.parent)

    eager = lab()
    eager.teacher.model.set_attn_implementation("eager")
    every = contenders(lab(), eager)
    rates: dict[str, list[float]] = {name: [] for name in every}
    generator = random.Random(0)
    for number in range(options.rounds):
        for name in generator.sample(sorted(every), len(every)):
            rates[name].append(every[name]())
            print(f"round {number + 1}: {name}: {rates[name][-1]:.0f} samples/s", flush=True)
    _write(options, rates)


def _write(options: argparse.Namespace, rates: Mapping[str, list[float]]) -> None:
    record = {
        "command": "python benchmarks/speed.py --shared ../shared "
        f"--rounds {options.rounds} --steps {options.steps} --threads {options.threads}",
        "environment": environment(),
        "batch_size": BATCH,
        "samples_per_s": rates,
    }
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Training speed",
        "",
        f"`{record['command']}`: {options.threads} thread(s), {options.rounds} rounds of "
        f"{options.steps} steps by turns, batch {BATCH}.",
        "",
        "| contender | samples/s, median of rounds (lowest to highest) |",
        "|---|---|",
    ]
    for name, values in rates.items():
        lines.append(
            f"| {name} | {np.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |"
        )
    lines += ["", "| ratio, within rounds | median (quartiles) |", "|---|---|"]
    pairs = [*RATIOS]
    pairs += [
        (name, "floor, auto") for name in rates if name.endswith(", auto") and name != "floor, auto"
    ]
    for ours_, other in pairs:
        ratio = ratio_of_rounds(rates[ours_], rates[other])
        lines.append(
            f"| {ours_} / {other} | {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |"
        )
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
