"""Compare what runs a classifier: PyTorch, ONNX Runtime, OpenVINO, LiteRT, ExecuTorch.

    python benchmarks/export.py --shared ../shared [--compat .venv-compat/bin/python]
        [--models minilm-l6,bert-base] [--work build/export] [--out benchmarks/export]
        [--only "ONNX Runtime ours,ExecuTorch"]

One thread, one process, alternately: each round asks every contender in a new order, and ratios are
taken within a round. What counts is CPU time of the process, which runs nothing else: on a shared
machine wall time also counts the neighbours. `--compat` is the python of `make compat`'s
environment, whose optimum-onnx makes its own files; without it those rows are missing, as are those
of extras that are not installed. `--only` names the contenders that run, by how they begin, beside
PyTorch. Files are kept in `--work` and made once, so that a file can be made in one environment and
run in another; results are written after each length.

The compute limit is the arithmetic that a first-token classifier needs (of the last block only one
row of query, output and feed-forward), at the best rate that a plain matrix product reached here in
the same run. BERT-base has random weights: its outputs say nothing, so no cosine is given.
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from toolchain.bench.environment import environment
from toolchain.export.exporter import Source, exporters
from toolchain.export.formats import litert
from toolchain.export.formats.onnx import export
from toolchain.export.tflite_file import slim
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.optimize.precisions import int8
from toolchain.optimize.simplify import simplify
from toolchain.runtimes.runtime import runtimes
from toolchain.stats import Ratio, ratio_of_rounds

Feed = Mapping[str, np.ndarray]
Ask = Callable[[Feed], np.ndarray]
NAMES = ("input_ids", "attention_mask", "token_type_ids")
CPU = "CPUExecutionProvider"
# A block of runs lasts about so long.
BLOCK_S = 0.06
# Lengths of the LiteRT files: shorter rows are padded to the next.
LITERT = {"minilm-l6": (16, 32, 64, 128), "bert-base": (32, 128)}

OPTIMUM = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig
source, out = sys.argv[1:]
ORTModelForSequenceClassification.from_pretrained(source, export=True).save_pretrained(out + "/O0")
for level in ("O2", "O3"):
    config = getattr(AutoOptimizationConfig, level)()
    ORTOptimizer.from_pretrained(out + "/O0").optimize(config, save_dir=f"{out}/{level}")
for level, file in (("O0", "model"), ("O2", "model_optimized"), ("O3", "model_optimized")):
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    try:
        quantizer = ORTQuantizer.from_pretrained(f"{out}/{level}", file_name=file + ".onnx")
        quantizer.quantize(config, save_dir=f"{out}/{level}-int8")
    except Exception as error:
        print(f"optimum int8 of {level} failed: {error}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Contender:
    """One way of running the model, up to so many tokens."""

    name: str
    ask: Ask
    bytes: int
    longest: int = 512


def bert_base(folder: Path, tokenizer: Path) -> Path:
    """Write a BERT-base with random weights and somebody's tokenizer."""
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(num_labels=2)).save_pretrained(folder)
        load_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def sentences(shared: Path, count: int) -> list[str]:
    lines = (shared / "data/sst2/dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t")[0] for line in lines[:count]]


def fed(tokenizer: Path, texts: Sequence[str]) -> list[Feed]:
    read = load_tokenizer(tokenizer)
    encoded = [read(text, return_token_type_ids=True) for text in texts]
    return [{n: np.array([e[n]], dtype=np.int64) for n in NAMES} for e in encoded]


def filled(tokens: int, seed: int) -> Feed:
    ids = np.random.default_rng(seed).integers(1000, 20000, (1, tokens))
    return {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones((1, tokens), np.int64),
        "token_type_ids": np.zeros((1, tokens), np.int64),
    }


def of_torch(folder: Path, dtype: torch.dtype) -> Ask:
    model = load_model(folder, "classify").to(dtype).eval()

    def ask(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{n: torch.from_numpy(feed[n]) for n in NAMES}).logits.float().numpy()

    return ask


def of_file(path: Path, runtime: str) -> Ask:
    return runtimes.get(runtime)(path, threads=1, provider=CPU).run


def make_ours(folder: Path, work: Path) -> None:
    if not (work / "int8.onnx").is_file():
        export(load_model(folder, "classify"), work / "plain.onnx")
        simplify(work / "plain.onnx", work / "fp32.onnx")
        int8.write(work / "fp32.onnx", work / "int8.onnx")


def make_openvino(work: Path, texts: Sequence[Feed]) -> dict[str, Path]:
    exporter = exporters.get("openvino")
    if exporter.missing():
        return {}
    paths = {p: work / "openvino" / f"{p}.xml" for p in exporter.files}
    for precision, path in paths.items():
        if not path.is_file():
            source = Source(model=lambda: None, onnx=work / "fp32.onnx", texts=texts)  # type: ignore[arg-type,return-value]
            exporter.write(source, path, precision)
    return paths


def make_litert(folder: Path, work: Path, lengths: tuple[int, ...]) -> dict[str, Path]:
    plain, small = work / "fp32.tflite", work / "int8.tflite"
    if exporters.get("litert").missing() and not (small.is_file() and find_spec("ai_edge_litert")):
        return {}
    # As the exporter does, but converted once for both, and for chosen lengths: each takes minutes.
    if not plain.is_file():
        litert.convert(load_model(folder, "classify"), lengths, plain)
    if not small.is_file():
        litert.quantise(plain, small)
        slim(small)
    return {"fp32": plain, "int8": small}


def make_executorch(folder: Path, work: Path) -> dict[str, Path]:
    exporter = exporters.get("executorch")
    if exporter.missing():
        return {}
    paths = {p: work / f"{p}.pte" for p in exporter.files}
    for precision, path in paths.items():
        if not path.is_file():
            source = Source(model=lambda: load_model(folder, "classify"), max_tokens=512)
            exporter.write(source, path, precision)
    return paths


def make_optimum(folder: Path, work: Path, compat: Path | None) -> dict[str, Path]:
    out = work / "optimum"
    if compat and not (out / "O3").is_dir():
        command = [str(compat), "-c", OPTIMUM, str(folder), str(out)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            print(made.stderr[-2000:], file=sys.stderr)
    found = {path.parent.name: path for path in sorted(out.glob("O*/model*.onnx"))}
    return {name: path for name, path in found.items() if name != "O0"}


def contenders(
    folder: Path,
    work: Path,
    texts: Sequence[Feed],
    options: argparse.Namespace,
    lengths: tuple[int, ...],
) -> list[Contender]:
    """Make all files and open those asked for."""
    make_ours(folder, work)
    weights = (folder / "model.safetensors").stat().st_size
    found = [
        Contender("PyTorch fp32", of_torch(folder, torch.float32), weights),
        Contender("PyTorch bf16", of_torch(folder, torch.bfloat16), weights // 2),
    ]
    files = {
        f"ONNX Runtime ours {p}": (work / f"{p}.onnx", "onnxruntime") for p in ("fp32", "int8")
    }
    for name, path in make_optimum(folder, work, options.compat).items():
        level = name.replace("-int8", " int8") if "int8" in name else f"{name} fp32"
        files[f"ONNX Runtime optimum {level}"] = (path, "onnxruntime")
    for precision, path in make_openvino(work, texts).items():
        files[f"OpenVINO {precision}"] = (path, "openvino")
    for precision, path in make_litert(folder, work, lengths).items():
        files[f"LiteRT {precision}"] = (path, "litert")
    for precision, path in make_executorch(folder, work).items():
        files[f"ExecuTorch {precision}"] = (path, "executorch")
    asked = tuple(options.only.split(","))
    files = {name: how for name, how in files.items() if name.startswith(asked)}
    for name, (path, runtime) in files.items():
        size = path.stat().st_size + sum(
            b.stat().st_size for b in [path.with_suffix(".bin")] if b.is_file()
        )
        limit = max(lengths) if runtime == "litert" else 512
        found.append(Contender(name, of_file(path, runtime), size, limit))
    return found


def timed(ask: Ask, feed: Feed, runs: int) -> float:
    """Return CPU milliseconds of one run."""
    start = time.process_time()
    for _ in range(runs):
        ask(feed)
    return (time.process_time() - start) / runs * 1e3


def alternate(all_: Sequence[Contender], tokens: int, rounds: int) -> dict[str, list[float]]:
    """Return one figure per round for every contender that reads so many tokens."""
    own = [c for c in all_ if c.longest >= tokens]
    feed = filled(tokens, tokens)
    runs = {}
    for contender in own:
        timed(contender.ask, feed, 2)
        runs[contender.name] = max(1, round(BLOCK_S * 1e3 / timed(contender.ask, feed, 1)))
    found: dict[str, list[float]] = {c.name: [] for c in own}
    order = random.Random(tokens)
    for _ in range(rounds):
        order.shuffle(own)
        for contender in own:
            timed(contender.ask, feed, 1)
            found[contender.name].append(timed(contender.ask, feed, runs[contender.name]))
    return found


def products(width: int, ffn: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Return plain matrix products of a feed-forward's shape, by precision and engine."""
    rows = 256
    generator = np.random.default_rng(0)
    a = generator.standard_normal((rows, width)).astype(np.float32)
    b = generator.standard_normal((width, ffn)).astype(np.float32)
    a8 = generator.integers(0, 128, a.shape).astype(np.uint8)
    b8 = generator.integers(-64, 64, b.shape).astype(np.int8)
    found: dict[str, dict[str, Callable[[], object]]] = {"fp32": {}, "bf16": {}, "int8": {}}
    for precision, (op, left, right) in {
        "fp32": ("MatMul", a, b),
        "int8": ("MatMulInteger", a8, b8),
    }.items():
        session = _one_product(op, left, right)
        found[precision]["onnxruntime"] = lambda s=session, x=left: s.run(None, {"a": x})
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        layer = torch.nn.Linear(width, ffn, bias=False).to(dtype)
        x = torch.from_numpy(a).to(dtype)
        found[precision]["torch"] = lambda m=layer, x=x: m(x)
    s8, t8 = torch.from_numpy(a8.astype(np.int8)), torch.from_numpy(b8)
    found["int8"]["torch"] = lambda: torch._int_mm(s8, t8)
    return found


def _one_product(op: str, left: np.ndarray, right: np.ndarray) -> ort.InferenceSession:
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT)
    if op == "MatMulInteger":
        kinds = (TensorProto.UINT8, TensorProto.INT32)
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds[0], left.shape)],
        [helper.make_tensor_value_info("c", kinds[1], (left.shape[0], right.shape[1]))],
        [numpy_helper.from_array(right, "b")],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])


def rates(width: int, ffn: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return GFLOP/s of each precision and engine: the median over rounds."""
    made, flops = products(width, ffn), 2 * 256 * width * ffn
    samples: dict[tuple[str, str], list[float]] = {}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for precision, engines in made.items():
                for engine, product in engines.items():
                    start = time.process_time()
                    for _ in range(20):
                        product()
                    spent = (time.process_time() - start) / 20
                    samples.setdefault((precision, engine), []).append(flops / spent / 1e9)
    found: dict[str, dict[str, float]] = {}
    for (precision, engine), values in samples.items():
        found.setdefault(precision, {})[engine] = float(np.median(values[1:]))
    return found


def needed(layers: int, width: int, ffn: int, tokens: int) -> float:
    """Return the floating-point operations of a classifier that reads its first token."""
    every = tokens * (4 * width**2 + 2 * width * ffn) + 2 * tokens**2 * width
    last = tokens * 2 * width**2 + 2 * width**2 + 2 * width * ffn + 2 * tokens * width
    return 2.0 * ((layers - 1) * every + last)


def closeness(all_: Sequence[Contender], feeds: Sequence[Feed]) -> dict[str, dict[str, float]]:
    """Return the cosine of all logits with PyTorch's fp32, and the part of equal decisions."""
    answers = {c.name: np.concatenate([c.ask(feed) for feed in feeds]) for c in all_}
    base = answers["PyTorch fp32"].astype(np.float64)
    found = {}
    for name, logits in answers.items():
        cosine = (logits * base).sum() / np.linalg.norm(logits) / np.linalg.norm(base)
        agreement = (logits.argmax(1) == base.argmax(1)).mean()
        found[name] = {"cosine": float(cosine), "agreement": float(agreement)}
    return found


def measure(name: str, options: argparse.Namespace, results: dict[str, object]) -> None:
    work = options.work / name
    work.mkdir(parents=True, exist_ok=True)
    minilm = options.shared / "models/minilm-l6-sst2"
    real = name == "minilm-l6"
    folder = minilm if real else bert_base(work / "model", minilm)
    feeds = fed(minilm, sentences(options.shared, 232))
    config = json.loads((folder / "config.json").read_text())
    shape = (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])
    all_ = contenders(folder, work, feeds[200:], options, LITERT[name])
    print(f"{name}: {len(all_)} contenders", file=sys.stderr)
    entry: dict[str, object] = {"shape": shape, "rates": rates(*shape[1:], options.rounds)}
    entry["bytes"] = {c.name: c.bytes for c in all_}
    if real:
        entry["closeness"] = closeness(all_, feeds[: options.rows])
    entry["rounds_ms"] = loads = {}
    results[name] = entry
    for tokens in options.tokens:
        loads[str(tokens)] = alternate(all_, tokens, options.rounds)
        save(options.out, results)
        print(f"{name}: {tokens} tokens done", file=sys.stderr)


def save(out: Path, results: Mapping[str, object]) -> None:
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(page(results), encoding="utf-8")


def ratio(rounds: Mapping[str, Sequence[float]], slow: str, fast: str) -> Ratio | None:
    if slow not in rounds or fast not in rounds:
        return None
    return ratio_of_rounds(list(rounds[slow]), list(rounds[fast]))


def best(rounds: Mapping[str, Sequence[float]], words: str, among: str = "") -> str | None:
    names = [n for n in rounds if words in n and among in n]
    return min(names, key=lambda n: np.median(rounds[n])) if names else None


def page(results: Mapping[str, object]) -> str:
    about = results["about"]
    assert isinstance(about, dict)
    lines = ["# Runtimes and formats", "", f"    {about['command']}", "", f"{about['machine']}"]
    lines += ["", " ".join((__doc__ or "").split("\n\n", 2)[2].split())]
    for name, entry in results.items():
        if name != "about":
            assert isinstance(entry, dict)
            lines += section(name, entry)
    return "\n".join(lines) + "\n"


def section(name: str, entry: dict) -> list[str]:
    layers, width, ffn = entry["shape"]
    loads = {int(tokens): rounds for tokens, rounds in entry["rounds_ms"].items()}
    peak = {p: max(engines.values()) for p, engines in entry["rates"].items()}
    lines = [
        "",
        f"## {name} ({layers} x {width})",
        "",
        "Matrix products, GFLOP/s: "
        + "; ".join(
            f"{p} " + ", ".join(f"{e} {v:.0f}" for e, v in engines.items())
            for p, engines in entry["rates"].items()
        )
        + ".",
        "",
    ]
    lines.append(
        "CPU ms of one text, median over rounds; in brackets the part of the limit reached."
    )
    lines += [
        "",
        "| | MB | cosine | same decision | " + " | ".join(f"{n} tokens" for n in loads) + " |",
    ]
    lines.append("|---|---:|---:|---:|" + "---:|" * len(loads))
    limits = {
        p: {n: needed(layers, width, ffn, n) / rate / 1e6 for n in loads}
        for p, rate in peak.items()
    }
    for contender, size in entry["bytes"].items():
        close = entry.get("closeness", {}).get(contender)
        precision = next((p for p in peak if p in contender), "fp32")
        cells = []
        for n, rounds in loads.items():
            if contender not in rounds:
                cells.append("-")
                continue
            middle = float(np.median(rounds[contender]))
            cells.append(f"{middle:.2f} ({limits[precision][n] / middle:.0%})")
        said = [f"{close['cosine']:.4f}", f"{close['agreement']:.1%}"] if close else ["", ""]
        lines.append(f"| {contender} | {size / 1e6:.1f} | {' | '.join([*said, *cells])} |")
    for p, by_tokens in limits.items():
        cells = " | ".join(f"{ms:.2f}" for ms in by_tokens.values())
        lines.append(f"| compute limit {p} | | | | {cells} |")
    return [*lines, *targets(loads, limits["int8"])]


def targets(
    loads: Mapping[int, Mapping[str, Sequence[float]]], limit: Mapping[int, float]
) -> list[str]:
    """Return what was to be reached beside what was."""
    lines = ["", "| ratio of medians within rounds | tokens | median | quartiles | to reach |"]
    lines.append("|---|---:|---:|---|---|")
    for n, rounds in loads.items():
        theirs = best(rounds, "int8", "optimum")
        ours = best({k: v for k, v in rounds.items() if "optimum" not in k}, "int8")
        asked = [
            (theirs, ours, "1.6" if n in (32, 128) else ""),
            (theirs, "ONNX Runtime ours int8", "1.25" if n in (32, 128) else ""),
            ("ONNX Runtime ours int8", ours, ""),
            ("ONNX Runtime ours fp32", ours, ""),
            ("ONNX Runtime ours int8", "ExecuTorch int8", ""),
            ("LiteRT int8", "ExecuTorch int8", ""),
            ("ONNX Runtime ours fp32", "ExecuTorch fp32", ""),
        ]
        for slow, fast, reach in dict.fromkeys(asked):
            found = ratio(rounds, slow, fast) if slow and fast and slow != fast else None
            if found:
                spread = f"{found.low:.2f} to {found.high:.2f}"
                lines.append(f"| {slow} / {fast} | {n} | {found.median:.2f} | {spread} | {reach} |")
        if ours:
            part = float(np.median(rounds[ours])) / limit[n]
            lines.append(f"| {ours} / int8 limit | {n} | {part:.2f} | | {_most(n)} |")
    return lines


def _most(tokens: int) -> str:
    return "at most 1.5" if tokens == 128 else ""


def command(options: argparse.Namespace) -> str:
    """Return what makes these figures again, whatever folders were used here."""
    words = ["--shared", "../shared", "--models", options.models, "--rounds", str(options.rounds)]
    words += ["--rows", str(options.rows), "--tokens", *map(str, options.tokens)]
    words += ["--compat", ".venv-compat/bin/python"] if options.compat else []
    words += ["--only", options.only] if options.only else []
    words += ["--out", str(options.out)] if options.only else []
    return shlex.join(["python", "benchmarks/export.py", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what runs a classifier.")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--compat", type=Path, help="python with optimum-onnx")
    parser.add_argument("--only", default="", help="contenders beside PyTorch, by how they begin")
    parser.add_argument("--models", default="minilm-l6,bert-base")
    parser.add_argument("--work", type=Path, default=Path("build/export"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/export"))
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 32, 64, 128, 512])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    around = environment()
    versions = around.get("packages", {})
    shown = ("torch", "transformers", "onnxruntime", "openvino", "ai-edge-litert", "executorch")
    assert isinstance(versions, Mapping)
    said = ", ".join(f"{n} {versions[n]}" for n in shown if n in versions)
    about = {
        "command": command(options),
        "machine": f"{around.get('cpu')}, one thread, load {around.get('load')}; {said}",
    }
    kept = options.out.with_suffix(".json")
    results: dict[str, object] = json.loads(kept.read_text()) if kept.is_file() else {}
    results["about"] = about
    for name in options.models.split(","):
        measure(name, options, results)


if __name__ == "__main__":
    main()
