"""Measure what one training step of every method holds: peak memory of a process of its own.

    python benchmarks/memory.py [--methods a b ...] [--out benchmarks/memory]

With `--methods` these are measured anew and the others' figures are kept from the .json.

A student of 3 x 384 learns from a teacher of 6 x 384 (two, where the method wants two) with random
weights and a vocabulary of 30522, on one batch of 8 rows of 512 tokens, float32, one thread: every
stage of the method takes one step of the real training loop (forward passes, loss, backward pass,
AdamW). General stages have masked language heads, methods for decoders GPT-2 shapes. Methods whose
student must be as deep as its teacher get one of 6 layers. Each method runs in a new process, one
at a time; the figure is its largest resident size. Beside it stands the estimate of the loss alone
(`toolchain.distill.memory`), the largest over the stages. The command fails when a method takes
8 GiB or more.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_BYTES = 8 << 30
BATCH, TOKENS, VOCAB = 8, 512, 30522


def measure(name: str) -> dict[str, object]:
    """Run one step of every stage in this process; return its peak and times."""
    import numpy as np
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
    )

    from toolchain.data.masking import Masking
    from toolchain.data.tokenizing import Rows
    from toolchain.distill.aggregation import Mean
    from toolchain.distill.catalogue import card
    from toolchain.distill.compose import compose
    from toolchain.distill.memory import stage_bytes
    from toolchain.distill.records import Parts, StageRun
    from toolchain.distill.teachers import TrainingModel
    from toolchain.distill.term import bind
    from toolchain.distill.trainer import train
    from toolchain.models.family import families
    from toolchain.progress import Null

    torch.set_num_threads(1)
    needs = card(name).requirements
    composition = compose(name, {})
    count = max(2 if composition.aggregation else 1, composition.needs_teachers)
    depth = 6 if "equal depth" in needs else 3

    def model(layers: int, task: str) -> TrainingModel:
        torch.manual_seed(layers)
        if task == "causal_lm":
            config = GPT2Config(
                vocab_size=VOCAB, n_positions=TOKENS, n_embd=384, n_layer=layers, n_head=12,
                bos_token_id=2, eos_token_id=3, pad_token_id=0,
            )  # fmt: skip
            built, family = GPT2LMHeadModel(config), families.get("gpt2")
        else:
            config = BertConfig(
                vocab_size=VOCAB, hidden_size=384, num_hidden_layers=layers, num_labels=2,
                num_attention_heads=12, intermediate_size=1536,
            )  # fmt: skip
            head = BertForMaskedLM if task == "mask_lm" else BertForSequenceClassification
            built, family = head(config), families.get("bert")
        spec = family.spec(config.to_dict(), task=task, num_labels=2 if task == "classify" else 0)
        return TrainingModel(model=built, family=family, spec=spec)

    random = np.random.default_rng(0)

    def rows(task: str) -> Rows:
        ids = [random.integers(5, VOCAB, TOKENS) for _ in range(BATCH)]
        ones = np.ones(TOKENS, dtype=np.int64)
        features = [{"input_ids": row, "attention_mask": ones} for row in ids]
        labels: object = random.integers(0, 2, BATCH)
        masking = None
        if task == "causal_lm":
            # The first half of each row is its prompt; labels stand where they are predicted.
            labels = tuple(np.append(row[1:], -100) for row in ids)
            for row in labels:
                row[: TOKENS // 2 - 1] = -100
        elif task == "mask_lm":
            masking = Masking(mask_id=4, vocab=VOCAB, special=(0, 1, 2, 3, 4))
        return Rows(
            features=features, labels=labels, pad_id=0, truncated=0, task=task, masking=masking
        )

    started, stages, loss = time.perf_counter(), [], 0
    for stage, terms in composition.stages.items():
        task = (
            "causal_lm" if "decoder" in needs else "mask_lm" if stage == "general" else "classify"
        )
        student, teachers = model(depth, task), [model(6, task) for _ in range(count)]
        bound = tuple(
            bind(term, student.spec, teacher.spec, index)
            for term in terms
            for index, teacher in enumerate(teachers)
            if index == 0 or not term.extract.is_gold
        )
        aggregation = composition.aggregation
        if aggregation and stage in aggregation.stages:
            aggregation = aggregation.resolve(student.spec, [t.spec for t in teachers])
        elif count > 1:
            aggregation = Mean()
        surgery = composition.surgery
        parts = Parts(
            aggregation=aggregation,
            operators=tuple(op for op in composition.operators if stage in op.stages),
            surgery=surgery if surgery and stage in surgery.stages else None,
        )
        run = StageRun(
            name=stage, steps=1, batch_size=BATCH, lr=1e-4, warmup=0.0, weight_decay=0.01, clip=1.0,
            evals=1, keep_best=False, bf16=False, seed=0, metric="accuracy",
        )  # fmt: skip
        data = rows(task)
        with tempfile.TemporaryDirectory() as work:
            train(student, teachers, bound, parts, data, data, run, Path(work), Null())
        stages.append(stage)
        loss = max(loss, stage_bytes(bound, BATCH, TOKENS))
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "loss_bytes": loss,
        "stages": stages,
        "teachers": count,
        "layers": depth,
        "task": task,
        "seconds": round(time.perf_counter() - started, 1),
    }


def measured(name: str) -> dict[str, object]:
    """Measure one method in a new process. Raises SystemExit with its last words if it dies."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        return {"error": f"exit {done.returncode}: {last}"}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(found: dict[str, dict[str, object]]) -> str:
    """Return the figures as Markdown."""
    import platform
    from importlib.metadata import version

    lines = [
        "# Memory of one training step, method by method",
        "",
        "    python benchmarks/memory.py",
        "",
        "Student 3 x 384, teacher 6 x 384, random weights, 8 rows of 512 tokens, float32, one",
        "thread, one step of every stage in one process per method; shapes as the script says.",
        "`peak` is the largest resident size of that process (torch and transformers included),",
        "`loss` the estimate of the loss alone, the largest over the stages. Limit: 8 GiB.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}.",
        "",
        "| method | stages | task | teachers | student layers | peak MiB | loss MiB | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(found.items()):
        if "error" in one:
            lines.append(f"| `{name}` | {one['error']} | | | | | | |")
            continue
        peak, loss = (int(str(one[key])) / 2**20 for key in ("peak_bytes", "loss_bytes"))
        stages = " ".join(one["stages"])  # type: ignore[arg-type]
        lines.append(
            f"| `{name}` | {stages} | {one['task']} | {one['teachers']} | {one['layers']} | "
            f"{peak:.0f} | {loss:.0f} | {one['seconds']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write the table; 1 when a method fails or takes too much."""
    from toolchain.distill.term import methods

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    kept = options.out.with_suffix(".json")
    found: dict[str, dict[str, object]] = {}
    if options.methods and kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
    for name in options.methods or methods.names():
        found[name] = measured(name)
        print(name, found[name], file=sys.stderr, flush=True)
        # After every method: much time may have gone into the others.
        kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(table(found), encoding="utf-8")
    peaks = {name: int(str(one.get("peak_bytes", LIMIT_BYTES))) for name, one in found.items()}
    bad = [name for name, peak in peaks.items() if peak >= LIMIT_BYTES]
    if bad:
        print(f"failed or over 8 GiB: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
