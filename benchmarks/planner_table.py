"""Large teachers on one to eight GPUs: what each placement would need, by the planner alone.

    python benchmarks/planner_table.py      # seconds; writes benchmarks/planner_table.md

No such model or GPU is needed. For every place of the teacher the cheapest place of the student
that fits stands there, or, where none does, the one that needs least of a GPU.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.distill.compose import compose
from toolchain.distill.term import bind
from toolchain.models.family import family_of
from toolchain.recipe import Placement
from toolchain.scale.budget import Job
from toolchain.scale.hardware import parse_hardware
from toolchain.scale.placing import Tried, cheapest, tried
from toolchain.spec import ModelSpec

BATCH, TOKENS = 16, 512
HARDWARE = ("1x40GB", "2x40GB", "8x40GB", "8x80GB")
PLACES = ("whole", "zero3", "tensor_parallel", "offload", "cached")


def llama(layers: int, width: int, heads: int, ffn: int, kv: int = 0) -> ModelSpec:
    config = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv or heads, "intermediate_size": ffn, "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    return family_of("llama").spec(config, task="causal_lm")


def gpt(layers: int, width: int, heads: int) -> ModelSpec:
    config = {
        "n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": 50304,
        "n_positions": 2048,
    }  # fmt: skip
    return family_of("gpt2").spec(config, task="causal_lm")


@dataclass(frozen=True)
class Pair:
    name: str
    teacher: ModelSpec
    student: ModelSpec
    method: str = "kd"
    stage: str = "pred"


LLAMA_7B = llama(32, 4096, 32, 11008)
GPT_100B = gpt(80, 10240, 80)
PAIRS = (
    Pair("7B", LLAMA_7B, llama(20, 1536, 16, 4096)),
    Pair("13B", llama(40, 5120, 40, 13824), llama(24, 2048, 16, 5504)),
    Pair("30B", llama(60, 6656, 52, 17920), llama(26, 3072, 24, 8192)),
    Pair("70B", llama(80, 8192, 64, 28672, kv=8), LLAMA_7B),
    Pair("100B, GKD's case", GPT_100B, gpt(40, 4608, 36)),
    Pair("100B, GKD's case", GPT_100B, gpt(24, 2560, 20)),
    Pair("100B, GKD's case", GPT_100B, gpt(24, 2560, 20), "minilm_v2", "inter"),
    Pair("175B", gpt(96, 12288, 96), gpt(28, 4096, 32)),
)


def job_of(pair: Pair) -> Job:
    terms = compose(pair.method, {}).stages[pair.stage]  # type: ignore[index]
    return Job(
        student=pair.student,
        teachers=(pair.teacher,),
        terms=tuple(bind(term, pair.student, pair.teacher) for term in terms),
        batch=BATCH,
        tokens=TOKENS,
        bf16=True,
    )


def shown(job: Job, hardware: str) -> Iterator[tuple[Tried, bool]]:
    """Yield one placement for each place of the teacher, and whether it is the cheapest of all."""
    machine = parse_hardware(hardware)
    best = cheapest(tried(job, Placement(), machine))
    for place in PLACES:
        found = tried(job, Placement(teacher=place), machine)  # type: ignore[arg-type]
        sensible = [one for one in found if one.budget]
        if not sensible:
            continue
        least = min(sensible, key=lambda one: one.budget.rank_bytes if one.budget else 0)
        chosen = cheapest(found) or least
        yield chosen, best is not None and chosen.placed == best.placed


def billions(spec: ModelSpec) -> str:
    return f"{spec.params() / 1e9:.1f} B"


def table() -> str:
    """Return the page."""
    lines = [
        "# Large teachers on few GPUs: what fits, by the planner",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"{BATCH} rows of {TOKENS} tokens a step over all ranks, bf16, nothing computed again in",
        "the backward pass. All figures are estimates, GB = 10^9 bytes; none was measured on a GPU",
        "(what was measured: [planner.md](planner.md)). `host` is that of the whole machine,",
        "processes included; `disk` holds the teacher's weights and the student's stored state; a",
        "cache comes on top with the bytes per token in the last column. **Bold**: the cheapest.",
        "",
    ]
    for pair in PAIRS:
        lines += [
            f"## {pair.name}: {billions(pair.teacher)} -> {billions(pair.student)}, {pair.method}",
            "",
            f"Teacher {pair.teacher.family} {pair.teacher}; student {pair.student.family} "
            f"{pair.student}.",
            "",
            "| GPUs | teacher | student | fits | GB a GPU | host | disk | cache, bytes/token |",
            "|---|---|---|---|---:|---:|---:|---:|",
        ]
        job = job_of(pair)
        for hardware in HARDWARE:
            for one, best in shown(job, hardware):
                budget = one.budget
                assert budget is not None
                mark = "**" if best else ""
                sizes = (budget.rank_bytes, budget.host_bytes, budget.disk_bytes)
                cells = [f"{size / 1e9:.1f}" for size in sizes]
                cells.append(f"{budget.disk_per_token:,}" if budget.disk_per_token else "")
                fits = "yes" if one.refused is None else "no"
                lines.append(
                    f"| {hardware} | {mark}{one.placed.teacher}{mark} | {one.placed.student} | "
                    f"{fits} | {' | '.join(cells)} |"
                )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(table(), encoding="utf-8")
    sys.exit(0)
