"""Train every distillation method for real and set the students beside each other.

    python benchmarks/methods.py --shared ../shared [--steps 160 80] [--seeds 3] [--quick]

Two tasks: trec6 and a slice of 6,000 rows of sst2. The teacher of sst2 is the one in `--shared`;
that of trec6 is its encoder, fine-tuned here. Every student has the same shape and the same number
of steps in all (a method of two stages gets half of them for each), and starts from the same
layers of the teacher; the label-only baseline (`finetune`) too. The one method that can only start
from random weights gets more steps, as its row says. One subprocess per method and task, with one
thread; its result is kept, so that a stopped benchmark goes on.

`--quick` runs one seed of few steps and trec6 alone: a check that everything still trains. A method
that fails is named, the others go on, and the exit code is 1.
"""

import argparse
import csv
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from toolchain.bench.environment import environment
from toolchain.data.batching import tokenize
from toolchain.data.sources import load_task
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.term import find_method, methods
from toolchain.errors import UsageError
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.plan import Plan, make_plan
from toolchain.progress import Null
from toolchain.recipe import Columns, Recipe, load_recipe
from toolchain.rundir import RunFolder, StepLog
from toolchain.teaching import Teaching

LAYERS, BATCH, RATE = 3, 32, 2e-4
# The same for every method, so that what differs is the method.
START = "teacher_uniform"
STEPS: Mapping[str, int] = {"sst2": 160, "trec6": 80}
TASKS = tuple(STEPS)
SLICE = 6000
BASELINE = "finetune"
# Why some stay below the baseline, where that is known.
HALF = "half of its steps match states or relations, and no label is seen in them"
NOTES: Mapping[str, str] = {
    "annealing_kd": "half of its steps regress logits alone; labels come in the other half",
    "continuation_kd": "labels count fully in the last third of its steps alone",
    "cofi": "it starts as the whole teacher (so KL is 0 before) and prunes 60 % of it in these "
    "steps, for which the paper takes epochs",
    "dkd": "most of its weight lies on the classes that are not the label's (beta = 8)",
    "fsp": HALF,
    "lrc_bert": HALF,
    "mgskd": HALF,
    "minilm": HALF,
    "minilm_v2": HALF,
    "mobilebert": "its thin blocks cannot start from the teacher's weights, and from random ones "
    "few steps teach little",
    "sid": "predictions count only when all blocks were matched, one after another",
    "ted": HALF,
    "theseus": "in part of its steps blocks of the teacher stand in for the student's",
    "tinybert": HALF,
}
_FIGURES = ("metric", "kl_before", "kl", "js_before", "js", "samples_per_s")
# Methods that decide the student's shape themselves, or work on another one.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "cofi": {"init": "teacher_copy"},
    "mobilebert": {"layers": 6, "family": "mobilebert"},
}
# So many times the steps, from random weights.
LONGER: Mapping[str, int] = {"mobilebert": 6}


class CpuClock(Null):
    """Notes the processor time of the steps of a stage: one thread, whatever runs beside it."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._last: dict[str, float] = {}

    def advance(self, task: str, done: int, total: int, **fields: object) -> None:  # noqa: ARG002
        """Count a step from the end of the one before it; a stage's first is left out."""
        now = time.process_time()
        if task in self._last:
            self.steps, self.seconds = self.steps + 1, self.seconds + now - self._last[task]
        self._last[task] = now


@dataclass(frozen=True, kw_only=True)
class Result:
    """One method on one task; lists hold one figure per seed.

    KL is the mean of KL(teacher || student), JS that of the Jensen-Shannon divergence, both in nats
    over the rows of dev. `steps` are those of all stages together.
    """

    method: str
    task: str
    init: str
    steps: int
    metric: list[float]
    kl_before: list[float]
    kl: list[float]
    js_before: list[float]
    js: list[float]
    samples_per_s: list[float]
    peak_bytes: int
    refused: str = ""


def main() -> None:
    """Run the whole benchmark, or one method of it as a subprocess."""
    options = _options()
    if options.one:
        _one(options)
        return
    names = options.methods or [n for n in methods.names() if n != BASELINE]
    seeds, tasks = options.seeds, tuple(options.tasks)
    given = options.steps or [STEPS[task] for task in tasks]
    if len(given) not in (1, len(tasks)):
        sys.exit(f"--steps: one number, or one for each of {', '.join(tasks)}")
    steps = dict(zip(tasks, given * len(tasks), strict=False))
    if options.quick:
        seeds, tasks, steps = 1, ("trec6",), {"trec6": 16}
        # Its teachers are of few steps too, and must not be taken for the others.
        options.work = options.work / "quick"
    for task in tasks:
        _prepare(options.shared, options.work, task, part=8 if options.quick else 1)
    queue = [(name, task) for task in tasks for name in (BASELINE, *names)]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda i: _child(options, *i, seeds=seeds, steps=steps[i[1]]), queue))
    results = {item: _read(options.work, *item) for item in queue}
    found = [r for r in results.values() if r]
    _write(options.out, found, seeds=seeds, steps=steps, quick=options.quick)
    failed = [f"{name} on {task}" for (name, task), result in results.items() if result is None]
    if failed:
        sys.exit(f"not trained: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and models/")
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/methods"))
    parser.add_argument("--steps", type=int, nargs="+", help="one number, or one per task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--methods", nargs="*", help="these only")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS, help="these only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


def _recipe(teacher: Path, data: Path, method: str, seed: int, **more: Any) -> Recipe:
    return load_recipe(
        None,
        {
            "teacher": str(teacher),
            "data": {"path": str(data), "max_tokens": 64},
            "student": SHAPES.get(method, {"layers": LAYERS, "init": START}),
            "method": method,
            "seed": seed,
            "threads": 1,
            "baseline": False,
            # Steps are set by max_steps alone.
            "train": {
                "epochs": 1000.0, "batch_size": BATCH, "lr": RATE, "evals": 1,
                "checkpoint_seconds": 1e6,
            },
            **more,
        },
        [],
    )  # fmt: skip


def _prepare(shared: Path, work: Path, task: str, *, part: int) -> None:
    """Make the task's data, its teacher and a second, smaller teacher, once.

    They are trained for one `part`-th of the steps.
    """
    data, source = work / task / "data", shared / "data" / task
    given = shared / "models" / "minilm-l6-sst2"
    # As the given teacher calls them, so that a second one calls them so too.
    names = json.loads((given / "config.json").read_text())["id2label"] if task == "sst2" else {}
    if not data.is_dir():
        data.mkdir(parents=True)
        for split in ("train", "dev"):
            with _opened(source / f"{split}.tsv") as file:
                rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            if task == "sst2" and split == "train":
                chosen = np.random.default_rng(0).permutation(len(rows) - 1)[:SLICE]
                rows = [rows[0], *(rows[1 + i] for i in sorted(chosen))]
            lines = ("\t".join([*row[:-1], names.get(row[-1], row[-1])]) + "\n" for row in rows)
            (data / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        known = (source / "labels.txt").read_text().splitlines()
        (data / "labels.txt").write_text("".join(f"{names.get(n, n)}\n" for n in known))
    if task == "sst2":
        _link(given, work / task / "teacher")
    else:
        _finetuned(given, data, work / task / "teacher", layers=6, steps=600 // part)
    _finetuned(work / task / "teacher", data, work / task / "second", layers=4, steps=300 // part)


def _opened(path: Path) -> IO[str]:
    packed = path.with_name(f"{path.name}.gz")
    return (
        path.open(encoding="utf-8") if path.is_file() else gzip.open(packed, "rt", encoding="utf-8")
    )


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.symlink_to(source.resolve(), target_is_directory=True)


def _finetuned(start: Path, data: Path, target: Path, *, layers: int, steps: int) -> None:
    """Fine-tune the first layers of a model on the task's labels, once; its head is made anew."""
    if target.exists():
        return
    start = _headless(start, target.with_name(f"{target.name}-encoder"), layers)
    recipe = _recipe(
        start, data, BASELINE, 0, max_steps=steps, student={"layers": layers},
        finetune={"lr": 1e-4, "epochs": 1000.0},
    )  # fmt: skip
    place = RunFolder(target.with_name(f"{target.name}-run"))
    teaching = Teaching(make_plan(recipe, target), StepLog(place, Null()))
    teaching.finetune()
    _link(teaching.teacher.folder, target)


def _headless(start: Path, target: Path, layers: int) -> Path:
    """Save the encoder of a classifier with its first layers alone."""
    if not target.is_dir():
        model = load_classifier(start)
        encoder = model.base_model
        encoder.encoder.layer = encoder.encoder.layer[:layers]
        encoder.config.num_hidden_layers = layers
        encoder.save_pretrained(target)
        load_tokenizer(start).save_pretrained(target)
    return target


def _child(options: argparse.Namespace, method: str, task: str, *, seeds: int, steps: int) -> None:
    if _read(options.work, method, task):
        return
    command = [
        sys.executable, __file__, "--one", method, "--task", task,
        "--shared", str(options.shared), "--work", str(options.work),
        "--seeds", str(seeds), "--steps", str(steps),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = _read(options.work, method, task)
    if found is None:
        print(f"{task:6} {method:16} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
    else:
        metric = f"{statistics.mean(found.metric):.4f}" if found.metric else found.refused
        print(f"{task:6} {method:16} {metric}", flush=True)


def _file(work: Path, method: str, task: str) -> Path:
    return work / task / "results" / f"{method}.json"


def _read(work: Path, method: str, task: str) -> Result | None:
    path = _file(work, method, task)
    return Result(**json.loads(path.read_text())) if path.is_file() else None


def _one(options: argparse.Namespace) -> None:
    """Train one method on one task with every seed and keep its result."""
    method, task, work = options.one, options.task, options.work
    figures: dict[str, list[float]] = {name: [] for name in _FIGURES}
    init, refused = "", ""
    steps = options.steps[0] * LONGER.get(method, 1)
    for seed in range(options.seeds):
        try:
            plan = _plan(work / task, method, seed, steps)
        except UsageError as error:
            # The same sentence on every machine.
            refused = str(error).replace(f"{work}/", "")
            break
        init = plan.init
        for name, value in _trained(plan, work / task, method, seed).items():
            figures[name].append(value)
    result = Result(
        method=method,
        task=task,
        init=init,
        steps=steps,
        peak_bytes=_peak_bytes(),
        refused=refused,
        **figures,
    )
    path = _file(work, method, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result)))


def _peak_bytes() -> int:
    # Not ru_maxrss: that of a child starts at its parent's.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _plan(folder: Path, method: str, seed: int, steps: int) -> Plan:
    """Return the plan in which all stages together have `steps` steps."""
    more: dict[str, Any] = {}
    if find_method(method).needs_teachers > 1:
        more["teachers"] = [str(folder / "second")]
    if find_method(method).needs_assistants:
        more["assistants"] = [{"layers": LAYERS + 1}]
    output = folder / "runs" / f"{method}-{seed}"
    recipe = _recipe(folder / "teacher", folder / "data", method, seed, max_steps=1, **more)
    stages = len(make_plan(recipe, output).stages)
    each = recipe.model_copy(update={"max_steps": max(1, steps // stages)})
    return make_plan(each, output)


def _trained(plan: Plan, folder: Path, method: str, seed: int) -> dict[str, float]:
    clock, place = CpuClock(), folder / "runs" / f"{method}-{seed}"
    log = StepLog(RunFolder(place), clock)
    teaching = Teaching(plan, log)
    teaching.assist()
    teaching.design()
    clock.steps, clock.seconds = 0, 0.0
    teaching.distill()
    artifact = log.done["distilled"].artifact
    teacher, labels = _dev(folder, folder / "teacher", kept="teacher")
    student, _ = _dev(folder, artifact.root)
    # Most methods start from the very same weights.
    start, _ = _dev(folder, teaching.start, kept=teaching.start_digest[:16])
    # Half a gigabyte each, and there are hundreds.
    shutil.rmtree(place)
    return {
        "metric": float((student.argmax(-1) == labels).mean()),
        "kl_before": _kl(teacher, start),
        "kl": _kl(teacher, student),
        "js_before": _js(teacher, start),
        "js": _js(teacher, student),
        "samples_per_s": BATCH * clock.steps / clock.seconds,
    }


def _dev(
    folder: Path, model: Path, *, kept: str = ""
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return a model's logits (R, C) on dev, kept under a name, and the labels (R,)."""
    task = load_task(str(folder / "data"), columns=Columns(), teacher_labels=None)
    labels = np.asarray(task.dev.labels, dtype=np.int64)
    cache = folder / f"{kept}-dev.npy"
    if kept and cache.is_file():
        return np.load(cache), labels
    rows = tokenize(load_tokenizer(model), task.dev.texts, None, task.dev.labels, max_tokens=64)
    logits = logits_of_rows(load_classifier(model), rows).astype(np.float64)
    if kept:
        aside = cache.with_suffix(f".{os.getpid()}.npy")
        np.save(aside, logits)
        aside.replace(cache)
    return logits, labels


def _kl(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float:
    log_t, log_s = (_log_softmax(z) for z in (teacher, student))
    return _mean_kl(log_t, log_s)


def _js(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float:
    log_t, log_s = (_log_softmax(z) for z in (teacher, student))
    log_m = np.logaddexp(log_t, log_s) - np.log(2)
    return (_mean_kl(log_t, log_m) + _mean_kl(log_s, log_m)) / 2


def _mean_kl(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> float:
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def _log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _write(
    out: Path, results: Sequence[Result], *, seeds: int, steps: Mapping[str, int], quick: bool
) -> None:
    record = {
        "command": _command(results, seeds=seeds, steps=steps, quick=quick),
        "environment": environment(),
        "student_layers": LAYERS,
        "steps": steps,
        "seeds": seeds,
        "batch_size": BATCH,
        "lr": RATE,
        "results": [asdict(r) for r in results],
    }
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Every method, trained for real",
        "",
        f"`{record['command']}`: batch {BATCH}, lr {RATE:g}, {seeds} seeds,",
        f"student of {LAYERS} layers, steps of all stages together; dev accuracy is mean (lowest",
        "to highest). Divergences are those of the teacher's and the student's predictions on dev,",
        "in nats, before and after: KL(teacher || student), and Jensen-Shannon's, which is at most",
        ".693. Samples/s are per second of processor time of one thread; peak memory is that of",
        "the process.",
    ]
    for task in dict.fromkeys(r.task for r in results):
        found = {f"{r.method} {r.init}": r for r in results if r.task == task}
        lines += ["", f"## {task}", "", *_table(found)]
    lines += ["", *_notes(results)]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _command(
    results: Sequence[Result], *, seeds: int, steps: Mapping[str, int], quick: bool
) -> str:
    """Return what makes these figures again, whatever folders were used here."""
    tasks = dict.fromkeys(r.task for r in results)
    each = " ".join(str(steps[task]) for task in tasks)
    # Quick runs have teachers of their own.
    options = "--quick" if quick else f"--steps {each} --seeds {seeds} --tasks {' '.join(tasks)}"
    return f"python benchmarks/methods.py --shared ../shared {options}"


def _table(found: Mapping[str, Result]) -> list[str]:
    lines = [
        "| method | start | steps | accuracy | KL before | after | JS before | after "
        "| samples/s | peak |"
    ]
    lines.append("|" + "---|" * 10)
    ran = [r for r in found.values() if r.metric]
    for r in sorted(ran, key=lambda r: -statistics.mean(r.metric)):
        name = f"**{r.method}** (labels only)" if r.method == BASELINE else f"`{r.method}`"
        low, high = min(r.metric), max(r.metric)
        lines.append(
            f"| {name} | {r.init} | {r.steps} "
            f"| {statistics.mean(r.metric):.4f} ({low:.4f} to {high:.4f}) "
            f"| {statistics.mean(r.kl_before):.3f} | {statistics.mean(r.kl):.3f} "
            f"| {statistics.mean(r.js_before):.3f} | {statistics.mean(r.js):.3f} "
            f"| {statistics.median(r.samples_per_s):.0f} | {r.peak_bytes / 2**20:.0f} MiB |"
        )
    refused = [f"- `{r.method}`: {r.refused}" for r in found.values() if r.refused]
    return [*lines, *(["", "Not on this task:", "", *refused] if refused else [])]


def _mean(result: Result, figure: str) -> float:
    return statistics.mean(getattr(result, figure))


def _notes(results: Sequence[Result]) -> list[str]:
    """Return what is known of why methods end below the baseline of their task."""
    means = {(r.task, r.method): statistics.mean(r.metric) for r in results if r.metric}
    below = {m for (t, m), mean in means.items() if mean < means.get((t, BASELINE), 0.0)}
    lines = []
    for task in dict.fromkeys(r.task for r in results):
        ran = [r for r in results if r.task == task and r.metric]
        for name, before, after in (
            ("Jensen-Shannon's divergence", "js_before", "js"),
            ("KL(teacher || student)", "kl_before", "kl"),
        ):
            apart = [r for r in ran if _mean(r, after) >= _mean(r, before)]
            names = ", ".join(f"`{r.method}`" for r in apart) or "none"
            lines += [
                f"No nearer to the teacher by {name} than at the start on {task}: {names}.",
                "",
            ]
        others = next((r for r in ran if r.method == BASELINE), None)
        for r in ran:
            if r.init == "teacher_copy" and others:
                lines += [
                    f"`{r.method}` starts as the teacher itself. By JS it ends at "
                    f"{_mean(r, 'js'):.3f} on {task}, where the others start at "
                    f"{_mean(others, 'js_before'):.3f}.",
                    "",
                ]
    lines += [
        "KL(teacher || student) punishes sure errors most: who decides better than at the start",
        "and has become as sure as a teacher that was trained on these rows can be farther by it.",
        "",
        "Below labels alone on a task, where the reason is known:",
        "",
    ]
    lines += [f"- `{name}`: {NOTES[name]}." for name in sorted(below & NOTES.keys())]
    rest = ", ".join(f"`{name}`" for name in sorted(below - NOTES.keys()))
    if rest:
        lines += ["", f"Below it within what seeds make of it, or for reasons not known: {rest}."]
    return lines


if __name__ == "__main__":
    main()
