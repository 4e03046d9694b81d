"""Compare graphs of one classifier: PyTorch, TorchScript, dynamo, and ours pass by pass.

    python benchmarks/export_graph.py --model DIR [--dev FILE.tsv] [--out benchmarks/export_graph]

Every contender is measured on one thread, alternately: each round asks each contender in a new
order, and ratios are taken within a round, so that a busy machine slows both sides of a ratio. The
figure of a round is the median of its runs; the table shows the median over rounds, and ratios with
their quartiles. What counts is the CPU time of the one thread that does all the work: on a shared
machine wall time also counts the neighbours, and more so in longer runs, which would flatter the
short ones; the .json holds wall times as well. With `--dev` (text <tab> label) it also scores the
fp32 and int8 files of TorchScript and ours.
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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import PreTrainedModel

from toolchain.bench.environment import environment
from toolchain.export.formats.onnx import export
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.optimize.passes import additive_mask, first_row, sequence_first
from toolchain.optimize.precisions import int8
from toolchain.optimize.rewrite import rewritten
from toolchain.stats import Ratio, ratio_of_rounds

NAMES = ("input_ids", "attention_mask", "token_type_ids")
REWRITES = {
    "additive_mask": additive_mask.rewrite,
    "sequence_first": sequence_first.rewrite,
    "first_row": first_row.rewrite,
}
Feed = Mapping[str, np.ndarray]
Ask = Callable[[Feed], np.ndarray]


class Logits(torch.nn.Module):
    """The call that the two reference exports trace."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(NAMES, values, strict=True))).logits
        return logits


@dataclass
class Contender:
    """One way of running the model; `rounds_ms` holds one median per round, by length.

    `rounds_ms` is CPU time, `wall_ms` wall time.
    """

    name: str
    layers: int
    precision: str
    ask: Ask
    bytes: int = 0
    nodes: int = 0
    rounds_ms: dict[int, list[float]] = field(default_factory=dict)
    wall_ms: dict[int, list[float]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name} {self.precision} {self.layers} layers"


def shortened(folder: Path, layers: int) -> PreTrainedModel:
    model = load_classifier(folder)
    blocks = model.base_model.encoder.layer
    model.base_model.encoder.layer = torch.nn.ModuleList(list(blocks)[:layers])
    model.config.num_hidden_layers = layers
    return model


def reference_exports(model: PreTrainedModel, folder: Path) -> dict[str, Path]:
    """Write what torch.onnx.export gives by itself, with either tracer."""
    wrapper = Logits(model).eval()
    sample = torch.ones(2, 16, dtype=torch.int64)
    sample[1, 10:] = 0
    values = (sample * 2000, sample, sample * 0)
    axes = {name: {0: "batch", 1: "sequence"} for name in NAMES}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    paths = {"torchscript": folder / "torchscript.onnx", "dynamo": folder / "dynamo.onnx"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            values,
            str(paths["torchscript"]),
            dynamo=False,
            opset_version=17,
            input_names=list(NAMES),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
        )
        torch.onnx.export(
            wrapper,
            values,
            paths["dynamo"],
            dynamo=True,
            opset_version=20,
            input_names=list(NAMES),
            output_names=["logits"],
            dynamic_shapes=(tuple(free for _ in NAMES),),
            external_data=False,
            verbose=False,
        )
    return paths


def our_exports(model: PreTrainedModel, folder: Path) -> dict[str, Path]:
    """Write our export and what each further rewrite makes of it; the last one is ours."""
    paths = {"export": folder / "export.onnx"}
    export(model, paths["export"])
    for count, name in enumerate(REWRITES, start=1):
        chosen = dict(list(REWRITES.items())[:count])
        label = "ours" if count == len(REWRITES) else f"+ {name}"
        paths[label] = folder / f"{name}.onnx"
        rewritten(paths["export"], paths[label], chosen)
    return paths


def quantised(name: str, path: Path) -> Path:
    out = path.with_suffix(".int8.onnx")
    if name in ("torchscript", "dynamo"):
        proto = onnx.load(path)
        # The quantiser fails on the shapes that the dynamo exporter leaves in its file.
        del proto.graph.value_info[:]
        quantize_dynamic(proto, out, per_channel=True, weight_type=QuantType.QInt8)
    else:
        int8.write(path, out)
    return out


def open_session(path: Path) -> Ask:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def ask(feed: Feed) -> np.ndarray:
        return np.asarray(session.run(None, feed)[0])

    return ask


def open_torch(model: PreTrainedModel) -> Ask:
    def ask(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            logits: torch.Tensor = model(**{k: torch.from_numpy(v) for k, v in feed.items()}).logits
        return logits.numpy()

    return ask


def contenders(source: Path, layers: int, folder: Path) -> list[Contender]:
    model = shortened(source, layers)
    folder.mkdir()
    found = [Contender("pytorch", layers, "fp32", open_torch(model))]
    for name, path in {**reference_exports(model, folder), **our_exports(model, folder)}.items():
        for precision, file in (("fp32", path), ("int8", quantised(name, path))):
            nodes = len(onnx.load(file).graph.node)
            size = file.stat().st_size
            found.append(Contender(name, layers, precision, open_session(file), size, nodes))
    return found


def single(tokens: int) -> Feed:
    ids = np.random.default_rng(tokens).integers(1000, 20000, (1, tokens))
    ones = np.ones((1, tokens), dtype=np.int64)
    return dict(zip(NAMES, (ids, ones, ones * 0), strict=True))


def measure(group: Sequence[Contender], tokens: int, rounds: int, runs: int) -> None:
    feed = single(tokens)
    order = list(group)
    shuffle = random.Random(tokens)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for contender in order:
            for _ in range(2):
                contender.ask(feed)
            taken: list[tuple[int, int]] = []
            for _ in range(runs):
                wall, start = time.perf_counter_ns(), time.thread_time_ns()
                contender.ask(feed)
                taken.append((time.thread_time_ns() - start, time.perf_counter_ns() - wall))
            for figures, kept in ((0, contender.rounds_ms), (1, contender.wall_ms)):
                middle = statistics.median(run[figures] for run in taken)
                kept.setdefault(tokens, []).append(middle / 1e6)


@dataclass(frozen=True)
class Score:
    """How one file does on the dev rows; `against` PyTorch fp32 of the same depth."""

    accuracy: float
    agreement: float
    mean_cosine: float
    mean_abs: float
    max_abs: float


def score(group: Sequence[Contender], source: Path, dev: Path) -> dict[str, Score]:
    lines = dev.read_text(encoding="utf-8").splitlines()[1:]
    texts, labels = zip(*(line.rsplit("\t", 1) for line in lines), strict=True)
    tokenizer = load_tokenizer(source)
    feeds = [dict(tokenizer(text, return_tensors="np", truncation=True)) for text in texts]
    wanted = np.array(labels, dtype=np.int64)
    reference = np.concatenate([group[0].ask(feed) for feed in feeds])
    scores = {}
    for contender in group:
        if contender.name not in ("pytorch", "torchscript", "ours"):
            continue
        found = np.concatenate([contender.ask(feed) for feed in feeds])
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
        apart = np.abs(found - reference)
        scores[contender.key] = Score(
            accuracy=float((found.argmax(1) == wanted).mean()),
            agreement=float((found.argmax(1) == reference.argmax(1)).mean()),
            mean_cosine=float(((found * reference).sum(1) / norms).mean()),
            mean_abs=float(apart.mean()),
            max_abs=float(apart.max()),
        )
    return scores


def headline(
    group: Sequence[Contender], teacher: int, student: int
) -> list[tuple[str, int, Ratio]]:
    """Return the ratios that the product promises, at every length."""
    by_key = {contender.key: contender for contender in group}
    small = by_key[f"ours int8 {student} layers"]
    rivals = [
        (f"pytorch fp32 {teacher} layers", small),
        (f"ours fp32 {teacher} layers", small),
        (f"torchscript int8 {teacher} layers", by_key[f"ours int8 {teacher} layers"]),
        (f"torchscript fp32 {teacher} layers", by_key[f"ours fp32 {teacher} layers"]),
    ]
    return [
        (
            f"{rival} / {ours.key}",
            tokens,
            ratio_of_rounds(by_key[rival].rounds_ms[tokens], ours.rounds_ms[tokens]),
        )
        for rival, ours in rivals
        for tokens in small.rounds_ms
    ]


def markdown(
    group: Sequence[Contender],
    ratios: Sequence[tuple[str, int, Ratio]],
    scores: Mapping[str, Score],
    about: Mapping[str, object],
) -> str:
    lengths = list(group[0].rounds_ms)
    lines = ["# Graph variants of one classifier", "", f"    {about['command']}", ""]
    lines += [f"{about['cpu']}, one thread, load {about['load']}; {about['packages']}", ""]
    lines += ["Median CPU ms of one text by length in tokens; in brackets the median ratio to the"]
    lines += ["TorchScript graph of the same depth and precision, taken within rounds.", ""]
    lines += [f"| contender | nodes | MB | {' | '.join(f'{n} tokens' for n in lengths)} |"]
    lines += [f"|---|---|---|{'---|' * len(lengths)}"]
    bases = {(c.layers, c.precision): c for c in group if c.name == "torchscript"}
    for contender in group:
        base = bases[contender.layers, contender.precision]
        cells = [
            f"{statistics.median(contender.rounds_ms[n]):.3f} "
            f"({ratio_of_rounds(contender.rounds_ms[n], base.rounds_ms[n]).median:.2f})"
            for n in lengths
        ]
        size = f"{contender.bytes / 1e6:.1f}" if contender.bytes else ""
        lines += [f"| {contender.key} | {contender.nodes or ''} | {size} | {' | '.join(cells)} |"]
    lines += ["", "| ratio | tokens | median | quartiles | rounds |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {tokens} | {r.median:.2f} | {r.low:.2f} to {r.high:.2f} | {r.rounds} |"
        for name, tokens, r in ratios
    ]
    if scores:
        lines += ["", "Against PyTorch fp32 of the same depth, on every dev row:", ""]
        lines += ["| contender | accuracy | agreement | mean cosine | mean abs | max abs |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [
            f"| {key} | {s.accuracy:.4f} | {s.agreement:.4f} | {s.mean_cosine:.5f} | "
            f"{s.mean_abs:.2e} | {s.max_abs:.2e} |"
            for key, s in scores.items()
        ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT classifier")
    parser.add_argument("--dev", type=Path, help="text <tab> label, with a header line")
    parser.add_argument("--layers", type=int, nargs=2, default=(6, 3), metavar=("FULL", "CUT"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=7, help="runs of one contender in one round")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    group: list[Contender] = []
    scores: dict[str, Score] = {}
    with tempfile.TemporaryDirectory() as folder:
        for layers in chosen.layers:
            added = contenders(chosen.model, layers, Path(folder) / str(layers))
            if chosen.dev and layers == chosen.layers[0]:
                scores = score(added, chosen.model, chosen.dev)
            group += added
    for tokens in chosen.lengths:
        print(f"measuring {tokens} tokens", file=sys.stderr)
        measure(group, tokens, chosen.rounds, chosen.runs)
    ratios = headline(group, *chosen.layers)
    machine = environment()
    options = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    about = {
        "command": shlex.join(["python", "benchmarks/export_graph.py", *options]),
        **machine,
        "packages": ", ".join(
            f"{name} {machine['packages'][name]}"
            for name in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")
        ),
    }
    text = markdown(group, ratios, scores, about)
    print(text)
    if chosen.out:
        chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
        results = [
            {**{k: v for k, v in vars(c).items() if k != "ask"}, "key": c.key} for c in group
        ]
        content = {
            "environment": machine,
            "command": about["command"],
            "contenders": results,
            "ratios": [{"ratio": n, "tokens": t, **vars(r)} for n, t, r in ratios],
            "scores": {key: vars(s) for key, s in scores.items()},
        }
        chosen.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
