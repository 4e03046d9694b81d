"""New tokens per second of a decoder of 100 M parameters: our files, GenAI's loop, transformers.

    python benchmarks/decoder.py [--rounds 5] [--prompt 64] [--new 32] [--out benchmarks/decoder]

A Llama of 12 x 768 with grouped queries and tied embeddings, random weights: what is timed does not
depend on them. One thread each, alternately: every round asks each contender in a new order for the
tokens that follow one prompt, and ratios are taken within a round. What counts is the CPU time of
the process. `same` is how many of the first greedy tokens are those of PyTorch in fp32: with random
weights words are nearly equally likely, so rounding soon chooses another.
"""

import argparse
import json
import logging
import random
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from toolchain.artifact import Draft
from toolchain.bench.environment import environment
from toolchain.runtimes.runtime import runtimes
from toolchain.stats import ratio_of_rounds
from toolchain.steps.export import export, quantize
from toolchain.steps.variants import onnx_file

VOCAB = 32_000
PRECISIONS = ("fp32", "int8", "int8_weights", "int4_weights")
IN_GENAI = ("fp32", "int8", "int4_weights")
BASE = "transformers fp32"


@dataclass
class Contender:
    """One way to go on with a prompt; `rounds_s` holds CPU seconds of each round."""

    name: str
    ask: Callable[[np.ndarray, int], np.ndarray]
    bytes: int
    same: int = 0
    rounds_s: list[float] = field(default_factory=list)


def made(folder: Path) -> Path:
    """Save the model with a tokenizer that nobody asks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    whole = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>").save_pretrained(folder)
    return folder


def of_torch(model: PreTrainedModel) -> Callable[[np.ndarray, int], np.ndarray]:
    def ask(prompt: np.ndarray, new: int) -> np.ndarray:
        ids = torch.from_numpy(prompt)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False,
                min_new_tokens=new, max_new_tokens=new,
            )  # fmt: skip
        return out[0, ids.shape[1] :].numpy()

    return ask


def of_file(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    session = runtimes.get("onnxruntime")(path, threads=1, provider="CPUExecutionProvider")
    return lambda prompt, new: session.generate({"input_ids": prompt}, new)[0]


def of_genai(folder: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    described = folder / "genai_config.json"
    content = json.loads(described.read_text())
    content["model"]["decoder"]["session_options"] |= {
        "intra_op_num_threads": 1,
        "inter_op_num_threads": 1,
    }
    described.write_text(json.dumps(content))
    model = genai.Model(str(folder))

    def ask(prompt: np.ndarray, new: int) -> np.ndarray:
        params = genai.GeneratorParams(model)
        length = prompt.shape[1] + new
        params.set_search_options(max_length=length, min_length=length)
        generator = genai.Generator(model, params)
        generator.append_tokens(prompt[0].astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return np.asarray(generator.get_sequence(0))[prompt.shape[1] :]

    return ask


def contenders(work: Path) -> list[Contender]:
    """Make all files and open them."""
    teacher = made(work / "teacher")
    size = (teacher / "model.safetensors").stat().st_size
    found = [
        Contender(
            f"transformers {name}",
            of_torch(LlamaForCausalLM.from_pretrained(teacher, dtype=dtype).eval()),
            size if name == "fp32" else size // 2,
        )
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]
    for precision in PRECISIONS:
        folder = work / precision
        if precision == "fp32":
            export(Draft(folder), source=teacher)
        else:
            quantize(Draft(folder), source=work / "fp32", precision=precision)
        path = folder / onnx_file(precision)
        found.append(Contender(f"ours {precision}", of_file(path), path.stat().st_size))
        if precision in IN_GENAI:
            name = f"ours {precision} in GenAI"
            found.append(Contender(name, of_genai(folder), path.stat().st_size))
    return found


def agreeing(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Return how many tokens are equal before the first that is not."""
    differing = np.flatnonzero(ours[: len(theirs)] != theirs[: len(ours)])
    return int(differing[0]) if len(differing) else min(len(ours), len(theirs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/decoder"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    prompt = np.random.default_rng(0).integers(3, VOCAB, (1, options.prompt), dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        all_ = contenders(Path(folder))
        expected = all_[0].ask(prompt, options.new)
        for contender in all_:
            contender.same = agreeing(contender.ask(prompt, options.new), expected)
        order = random.Random(0)
        for _ in range(options.rounds):
            for contender in order.sample(all_, len(all_)):
                start = time.process_time()
                contender.ask(prompt, options.new)
                contender.rounds_s.append(time.process_time() - start)
    write(options, all_)


def write(options: argparse.Namespace, all_: list[Contender]) -> None:
    words = ["--rounds", options.rounds, "--prompt", options.prompt, "--new", options.new]
    around = environment()
    packages = around["packages"]
    assert isinstance(packages, dict)
    command = shlex.join(["python", "benchmarks/decoder.py", *map(str, words)])
    record = {
        "command": command,
        "environment": around,
        "contenders": [
            {"name": c.name, "bytes": c.bytes, "same": c.same, "rounds_s": c.rounds_s} for c in all_
        ],
    }
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    base = next(c for c in all_ if c.name == BASE)
    lines = [
        "# A decoder of 100 M parameters",
        "",
        f"    {command}",
        "",
        f"{around.get('cpu')}, one thread, load {around.get('load')}; torch {packages['torch']}, "
        f"transformers {packages['transformers']}, onnxruntime {packages['onnxruntime']}, "
        f"onnxruntime-genai {genai.__version__}",
        "",
        f"Llama of 12 x 768, grouped queries, tied embeddings, random weights: {options.new}",
        f"tokens after a prompt of {options.prompt}, prompt included in the time. CPU time;",
        f"medians of {options.rounds} rounds; ratios to transformers fp32 within rounds, quartiles",
        "in brackets.",
        "",
        "| contender | MB | new tokens/s | of transformers fp32's speed | same first tokens |",
        "|---|---:|---:|---|---:|",
    ]
    for c in all_:
        gain = ratio_of_rounds(base.rounds_s, c.rounds_s)
        rate = options.new / statistics.median(c.rounds_s)
        spread = f"{gain.median:.2f} ({gain.low:.2f} to {gain.high:.2f})"
        lines.append(f"| {c.name} | {c.bytes / 1e6:.1f} | {rate:.1f} | {spread} | {c.same} |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
