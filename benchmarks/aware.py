"""What quantisation-aware distillation gives back of what int8 took.

    python benchmarks/aware.py --shared ../shared [--seeds 3] [--out benchmarks/aware]

A student of three of MiniLM-L6's six blocks learns sst2 from it (kd, `--rows` rows, one epoch), in
two cases. "as it is": the start is the teacher's own blocks. "outliers": in every block one value
feature of each head is multiplied by 128 and what reads it divided by 128, which changes nothing in
fp32; an int8 file then has one range for features 128 times apart, as large models grow them by
themselves. Each run is `toolchain compress` with quantize.aware=always, so every file is written,
quantised and verified as a user's: all figures are of files under ONNX Runtime on sst2's dev rows,
int8 one row at a time. The student trained on for the same steps without rounding is not among
them: what more steps alone give is seen in the fp32 file of the second training.
"""

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from toolchain.bench.environment import environment
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model, save_model
from toolchain.pipeline import compress
from toolchain.plan import make_plan
from toolchain.progress import Null
from toolchain.recipe import load_recipe

FACTOR = 128.0
FILES = ("student-onnx", "student-int8", "student-aware-onnx", "student-aware-int8")
NAMES = ("fp32", "int8", "aware, fp32", "aware, int8")


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/aware"))
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for case in ("outliers", "as it is"):
            with tempfile.TemporaryDirectory() as work:
                runs.append(_run(options.shared, Path(work), case, seed, options.rows))
            record = {"rows": options.rows, "runs": runs, "environment": environment()}
            text = json.dumps(record, indent=2, default=str) + "\n"
            options.out.with_suffix(".json").write_text(text)
            options.out.with_suffix(".md").write_text(_page(record))


def _run(shared: Path, work: Path, case: str, seed: int, rows: int) -> dict[str, Any]:
    teacher = shared / "models" / "minilm-l6-sst2"
    start = _start(teacher, work / "start", FACTOR if case == "outliers" else 1.0)
    recipe = load_recipe(
        None,
        {
            "teacher": str(teacher), "data": {"path": str(_part(shared, rows, work / "data"))},
            "student": {"path": str(start)}, "method": "kd", "baseline": False, "seed": seed,
            "train": {"epochs": 1, "evals": 2}, "quantize": {"aware": "always"}, "threads": 1,
            "benchmark": {"tokens": [], "min_seconds": 0.05, "min_runs": 10, "rounds": 2},
        },
        [],
    )  # fmt: skip
    begun = time.process_time()
    plan = make_plan(recipe, work / "build")
    report = compress(plan, work / "build", command="", progress=Null()).report
    found: dict[str, Any] = {"case": case, "seed": seed, "cpu_s": time.process_time() - begun}
    for file in FILES:
        model = report.model(file)
        assert model.metric is not None
        assert model.parity is not None
        found[file] = {
            "accuracy": model.metric.value,
            "cosine": model.parity.cosine,
            "agreement": model.parity.agreement,
            "missed": [g.gate for g in report.gates if g.model == file and g.passed is False],
        }
    assert plan.aware is not None
    found["steps"] = plan.aware.steps
    found["shipped"] = {name: s and s.model for name, s in report.shipped.items()}
    return found


def _start(teacher: Path, folder: Path, factor: float) -> Path:
    """Write a student of every second block of the teacher, with outliers of this size."""
    found = inspect(str(teacher))
    model = build_student(
        load_model(teacher, "classify"), found.family, found.spec.reshaped(layers=3),
        "teacher_uniform", seed=0,
    )  # fmt: skip
    _widen(model, factor)
    folder.mkdir()
    save_model(model, folder)
    save_tokenizer(teacher, folder)
    return folder


@torch.no_grad()
def _widen(model: PreTrainedModel, factor: float) -> None:
    """Make one value feature of each head larger, and what reads it smaller."""
    for block in model.bert.encoder.layer:
        width = block.attention.self.attention_head_size
        value, out = block.attention.self.value, block.attention.output.dense
        chosen = torch.arange(5, value.out_features, width)
        value.weight[chosen] *= factor
        value.bias[chosen] *= factor
        out.weight[:, chosen] /= factor


def _part(shared: Path, rows: int, folder: Path) -> Path:
    """Write the first rows of sst2's training data, and its dev rows."""
    folder.mkdir()
    source = shared / "data" / "sst2"
    with gzip.open(source / "train.tsv.gz", "rt", encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(rows + 1), strict=False)]
    (folder / "train.tsv").write_text("".join(lines), encoding="utf-8")
    for name in ("dev.tsv", "labels.txt"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def _page(record: dict[str, Any]) -> str:
    runs = record["runs"]
    cpu, packages = record["environment"]["cpu"], record["environment"]["packages"]
    lines = [
        "# What quantisation-aware distillation gives back",
        "",
        "    python benchmarks/aware.py --shared ../shared",
        "",
        "Three of MiniLM-L6's six blocks, taught sst2 by it (kd, one epoch of the first",
        f"{record['rows']:,} rows, lr 1e-4), then trained on for {runs[0]['steps']} steps at half "
        "of that rate with the",
        "rounding of int8. Accuracy on sst2's 872 dev rows, files under ONNX Runtime; cosine and",
        "agreement of int8 are with its fp32 file, of aware int8 with what was trained. Gates are",
        "those of every run (cosine .99, agreement .97, at most .01 below the fp32 student).",
        "`outliers`: one value feature of each head 128 times as large, what reads it as much",
        "smaller: the same model in fp32.",
        "",
        "| start | seed | " + " | ".join(NAMES) + " | int8: cosine, agreement | aware int8: "
        "cosine, agreement | int8 misses | aware int8 misses |",
        "|---|---:|" + "---:|" * len(NAMES) + "---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda r: (r["case"] != "outliers", r["seed"])):
        figures = " | ".join(f"{run[file]['accuracy']:.4f}" for file in FILES)
        pairs = [run["student-int8"], run["student-aware-int8"]]
        near = " | ".join(f"{p['cosine']:.4f}, {p['agreement']:.2%}" for p in pairs)
        missed = " | ".join(", ".join(p["missed"]) or "none" for p in pairs)
        lines.append(f"| {run['case']} | {run['seed']} | {figures} | {near} | {missed} |")
    for case in dict.fromkeys(run["case"] for run in runs):
        own = [run for run in runs if run["case"] == case]
        means = [statistics.mean(run[file]["accuracy"] for run in own) for file in FILES]
        figures = " | ".join(f"{mean:.4f}" for mean in means)
        lines.append(f"| {case} | mean of {len(own)} | {figures} | | | | |")
    seconds = sum(run["cpu_s"] for run in runs)
    lines += [
        "",
        "The 95 % interval of one accuracy is about .02 to either side. "
        f"{seconds / 60:.0f} minutes of processor time in all, one thread.",
        "",
        *([record["note"], ""] if "note" in record else []),
        f"{cpu}; torch {packages['torch']}, onnxruntime {packages['onnxruntime']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
