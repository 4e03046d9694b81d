"""Stream teachers that do not fit: 7B from disk under 4 GiB, 100B made block by block under 8 GiB.

    python benchmarks/stream.py [--only 7b|100b] [--work DIR] [--written DIR] [--out FILE]

7B: a Llama of 32 x 4096 (ffn 11008, vocabulary 32000) in bf16, random weights, written shard by
shard (13.5 GB, removed afterwards), then inspected and streamed like any model folder, in a process
whose address space the system limits to 4 GiB (RLIMIT_AS). As a control, loading it whole is tried
under the same limit. 100B: a Llama of 88 x 9728 (ffn 25856), whose tensors are made when they are
read, from a seed and their name, instead of from a file; all else is the same code. Its process may
have 8 GiB. Both read real sentences (sst2) with a real tokenizer (of minilm-l6-sst2), in bf16 as
training does, one thread, and give logits, the last states, and queries, keys and values of the
last block. The peak is VmHWM, the largest resident size, with Python, torch and transformers.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

GIB = 1 << 30
SHARED = Path(__file__).resolve().parents[2] / "shared"
TOKENIZER = SHARED / "models" / "minilm-l6-sst2"
TEXTS = SHARED / "data" / "sst2" / "dev.tsv"
TOKENS = 32
SHAPES: Mapping[str, Mapping[str, int]] = {
    "7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "heads": 32},
    "100b": {"num_hidden_layers": 88, "hidden_size": 9728, "intermediate_size": 25856, "heads": 76},
}
LIMITS = {"7b": 4 * GIB, "100b": 8 * GIB}
# Micro-batches, and rows of each.
BATCHES = {"7b": (4, 8), "100b": (1, 4)}


def config_of(name: str) -> "LlamaConfig":  # noqa: F821
    """Return the configuration of a shape."""
    from transformers import LlamaConfig

    shape = dict(SHAPES[name])
    heads = shape.pop("heads")
    return LlamaConfig(
        **shape, num_attention_heads=heads, num_key_value_heads=heads, vocab_size=32000,
        max_position_embeddings=4096, tie_word_embeddings=False, dtype="bfloat16", pad_token_id=0,
        bos_token_id=101, eos_token_id=102, architectures=["LlamaForCausalLM"],
    )  # fmt: skip


class MadeWeights:
    """Tensors made when they are read: repeated random numbers, begun where the name says."""

    def __init__(self, config: "LlamaConfig") -> None:  # noqa: F821
        import torch

        from toolchain.models.loading import empty_model

        model = empty_model(config, "causal_lm")
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        generator = torch.Generator().manual_seed(0)
        # A prime length: no two rows of a matrix are the same.
        noise = torch.randn(4_000_037, generator=generator) * 0.02
        self._noise = noise.bfloat16()

    def read(self, name: str, buffer: "Tensor | None" = None) -> "Tensor":  # noqa: F821
        """Return one tensor in bf16; norms are ones."""
        import torch

        from toolchain.scale.weights import buffer_for

        shape = self.shapes[name]
        tensor = buffer_for(shape, torch.bfloat16, buffer)
        if len(shape) == 1:
            return tensor.fill_(1.0)
        flat, size = tensor.view(-1), len(self._noise)
        begin = zlib.crc32(name.encode()) % size
        head = min(size - begin, len(flat))
        flat[:head] = self._noise[begin : begin + head]
        for start in range(head, len(flat), size):
            part = flat[start : start + size]
            part.copy_(self._noise[: len(part)])
        return tensor

    def rows(self, name: str, ids: "Tensor") -> "Tensor":  # noqa: F821
        """Return rows of a table."""
        return self.read(name)[ids]


def write_model(name: str, folder: Path) -> None:
    """Write a model of that shape, a block a shard, never holding two."""
    from safetensors.torch import save_file

    config = config_of(name)
    weights = MadeWeights(config)
    groups: dict[str, list[str]] = {}
    for tensor in weights.shapes:
        parts = tensor.split(".")
        key = f"block-{int(parts[2]) + 1:03d}" if parts[1] == "layers" else parts[-2]
        groups.setdefault(key, []).append(tensor)
    config.save_pretrained(folder)
    index = {}
    for key, names in groups.items():
        file = f"model-{key}.safetensors"
        save_file({n: weights.read(n) for n in names}, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(names, file))
    size = sum(2 * math.prod(shape) for shape in weights.shapes.values())
    whole = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, folder)


def given(name: str) -> Iterator["Batch"]:  # noqa: F821
    """Yield micro-batches of real sentences."""
    from toolchain.data.batching import collate
    from toolchain.data.tokenizing import tokenize_raw
    from toolchain.models.loading import load_tokenizer

    count, rows_each = BATCHES[name]
    lines = TEXTS.read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines][: count * rows_each]
    rows = tokenize_raw(load_tokenizer(TOKENIZER), texts, task="causal_lm", max_tokens=TOKENS)
    for start in range(0, count * rows_each, rows_each):
        yield collate(rows, range(start, start + rows_each))


class Clock:
    """Notes when each part was done, as a Progress."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def say(self, message: str) -> None:
        """Drop it."""

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        """Note the time."""
        self.times.append(time.perf_counter())
        if done % 8 == 0 or done == total:
            print(f"{task} {done}/{total}: {peak_bytes() / GIB:.2f} GiB peak", file=sys.stderr)

    def event(self, kind: str, **fields: object) -> None:
        """Drop it."""


def peak_bytes(field: str = "VmHWM") -> int:
    """Return the largest resident size so far (or VmPeak, the largest address space)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc: run it on Linux")


def limit(name: str) -> None:
    """Let the system refuse this process more address space than the shape may have.

    The 100B shape is limited in resident memory only, and checked at the end.
    """
    import resource

    if name == "7b":
        resource.setrlimit(resource.RLIMIT_AS, (LIMITS[name], LIMITS[name]))


def stream(name: str, folder: Path | None) -> dict[str, object]:
    """Stream one shape in this process and return its figures."""
    limit(name)
    import torch

    from toolchain.distill.extract import Request
    from toolchain.models.checkpoint import inspect
    from toolchain.models.families.llama import FAMILY
    from toolchain.scale.stream import StreamedModel, streamed

    torch.set_num_threads(1)
    imported = peak_bytes()
    begun = time.perf_counter()
    if folder:
        model = streamed(inspect(str(folder)), memory_bytes=GIB // 4, work=folder)
    else:
        config = config_of(name)
        spec = FAMILY.spec(config.to_dict(), task="causal_lm")
        model = StreamedModel(
            config=config, family=FAMILY, spec=spec, weights=MadeWeights(config),
            memory_bytes=GIB // 4,
        )  # fmt: skip
    inspected = time.perf_counter()
    last = model.spec.layers
    requests = {Request("logits"), *(Request(kind, last) for kind in ("hidden", "q", "k", "v"))}
    batches = list(given(name))
    teacher = model.open(frozenset(requests), device=torch.device("cpu"), bf16=True)
    clock, cpu = Clock(), time.process_time()
    tokens = predicted = 0
    captured, finite = 0, True
    for batch, captures in zip(batches, teacher.captures_of(batches, progress=clock), strict=True):
        tokens += int(batch.mask_BN.sum())
        predicted += len(captures.kept[Request("logits")])
        captured += sum(tensor.nbytes for tensor in captures.kept.values())
        finite = finite and all(bool(t.isfinite().all()) for t in captures.kept.values())
    assert finite, "a capture is not finite"
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return {
        "parameters": model.spec.params(),
        "disk_bytes": sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder else 0,
        "layers": last,
        "width": model.spec.width,
        "block_bytes": 2 * model.spec.block_params(),
        "rows": sum(len(batch.rows) for batch in batches),
        "micro_batches": len(batches),
        "tokens": tokens,
        "logit_rows": predicted,
        "captured_bytes": captured,
        "imported_peak_bytes": imported,
        "peak_bytes": peak_bytes(),
        "address_space_bytes": peak_bytes("VmPeak"),
        "limit_bytes": LIMITS[name],
        "inspect_s": round(inspected - begun, 1),
        "stream_s": round(sum(steps), 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "part_s_median": round(statistics.median(steps), 2),
        "part_s_max": round(max(steps), 2),
    }


def control(folder: Path) -> dict[str, object]:
    """Try to load the model whole under the limit; say how that ends."""
    limit("7b")
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    try:
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    except (MemoryError, RuntimeError, OSError) as error:
        said = str(error).splitlines()[0].replace(f"{folder}/", "")
        return {"whole": f"{type(error).__name__}: {said}"}
    return {"whole": "loaded"}


def child(command: str, name: str, folder: Path | None) -> dict[str, object]:
    """Run a part of this script in a process of its own and return its figures."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # Large pages where the system gives them: fresh buffers cost less to touch.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    line = [sys.executable, __file__, "--child", command, "--only", name]
    line += ["--work", str(folder)] if folder else []
    done = subprocess.run(line, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"error": f"exit {done.returncode}"}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(name: str, work: Path | None, written: Path | None) -> dict[str, object]:
    """Make what must be on disk, stream it, and remove it."""
    if name != "7b":
        return child("stream", name, None)
    if written:
        return {**child("stream", name, written), **child("control", name, written)}
    with tempfile.TemporaryDirectory(dir=work) as place:
        folder = Path(place)
        free = shutil.disk_usage(folder).free
        if free < 20 * GIB:
            raise SystemExit(f"{folder}: 13.5 GB are written, {free / 1e9:.0f} GB are free")
        write_model(name, folder)
        return {**child("stream", name, folder), **child("control", name, folder)}


def table(found: Mapping[str, Mapping[str, object]]) -> str:
    """Return the figures as Markdown."""
    rows = [
        ("parameters, billions", "parameters", 1e9),
        ("blocks", "layers", 1),
        ("width", "width", 1),
        ("one block in bf16, MiB", "block_bytes", 2**20),
        ("safetensors on disk, MB", "disk_bytes", 1e6),
        ("rows", "rows", 1),
        ("micro-batches", "micro_batches", 1),
        ("tokens", "tokens", 1),
        ("captures, MiB", "captured_bytes", 2**20),
        ("limit, MiB", "limit_bytes", 2**20),
        ("peak resident, MiB", "peak_bytes", 2**20),
        ("of which after imports, MiB", "imported_peak_bytes", 2**20),
        ("largest address space, MiB", "address_space_bytes", 2**20),
        ("streaming, s", "stream_s", 1),
        ("processor time of it, s", "cpu_s", 1),
        ("a part, median s", "part_s_median", 1),
        ("a part, largest s", "part_s_max", 1),
        ("inspection before it, s", "inspect_s", 1),
    ]
    names = sorted(found, key=lambda name: len(name))
    lines = [
        "# Teachers streamed block by block",
        "",
        "    python benchmarks/stream.py",
        "",
        "What is run is said at the head of the script. 7B lies on disk as safetensors, 100B is",
        "made block by block while it is read. One thread at low priority on two cores that were",
        "shared with many other busy processes: seconds are long, processor time and peaks are",
        "what to look at. A part is a block, or the head.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for title, key, unit in rows:
        cells = [_cell(found[name].get(key), unit) for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    each = [f"{_number(found[n], 'cpu_s') / (_number(found[n], 'layers') + 1):.1f}" for n in names]
    lines.append(f"| processor time a part, s | {' | '.join(each)} |")
    if "7b" in found:
        lines += [
            "",
            "The 7B model loaded whole under the same limit: "
            f"{found['7b'].get('whole', 'not tried')}",
        ]
    return "\n".join(lines) + "\n"


def _number(one: Mapping[str, object], key: str) -> float:
    value = one.get(key, 0)
    assert isinstance(value, int | float)
    return value


def _cell(value: object, unit: float) -> str:
    if not isinstance(value, int | float):
        return ""
    if unit == 1:
        return str(value)
    return f"{value / unit:.1f}" if unit == 1e9 else f"{value / unit:.0f}"


def main() -> int:
    """Measure and write the figures; 1 when a shape fails or takes more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=sorted(SHAPES))
    parser.add_argument("--work", type=Path, default=None, help="where 7B is written")
    parser.add_argument("--written", type=Path, default=None, help="a 7B written earlier")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    parser.add_argument("--child", choices=("stream", "control"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run = stream(options.only, options.work) if options.child == "stream" else None
        print(json.dumps(run or control(options.work)))
        return 0
    path = options.out.with_suffix(".json")
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in [options.only] if options.only else sorted(SHAPES):
        found[name] = measured(name, options.work, options.written)
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    options.out.with_suffix(".md").write_text(table(found))
    failed = [
        name
        for name, one in found.items()
        if "error" in one or int(str(one["peak_bytes"])) >= LIMITS[name]
    ]
    for name in failed:
        print(f"{name}: {found[name].get('error', 'over its limit')}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
