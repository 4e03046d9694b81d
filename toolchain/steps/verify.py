"""The step that proves: every model on the task's real rows, against its parent and the gates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from toolchain.artifact import Artifact, Draft, file_sha256, write_atomic
from toolchain.data.batching import Rows, in_order
from toolchain.data.sources import TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.evaluate import Answers, evaluate
from toolchain.distill.surgery.fake_int8 import Rounding
from toolchain.export.exporter import ONNX
from toolchain.measurement import Metric, Parity, Verdict
from toolchain.metrics import Embeddings, is_finite
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Progress
from toolchain.recipe import DataTask, Gates
from toolchain.runtimes.runtime import runtimes
from toolchain.spec import LANGUAGE
from toolchain.steps.aware import rounding_of
from toolchain.steps.side_by_side import side_by_side
from toolchain.steps.variants import TEACHER, Variant
from toolchain.verify import gates, quality
from toolchain.verify.parity import compare, logits_of

__all__ = ["Proof", "read_proof", "verify"]

_FILE = "verify.json"
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What verification found: metric and parity per variant name, and the verdicts."""

    metrics: Mapping[str, Metric]
    parities: Mapping[str, Parity]
    verdicts: tuple[Verdict, ...]

    def passed(self, name: str) -> bool:
        """Return whether no gate of this variant failed."""
        return all(v.passed is not False for v in self.verdicts if v.model == name)

    def with_more(self, later: "Proof") -> "Proof":
        """Return it with what was found of further variants."""
        return Proof(
            metrics={**self.metrics, **later.metrics},
            parities={**self.parities, **later.parities},
            verdicts=(*self.verdicts, *later.verdicts),
        )


def read_proof(artifact: Artifact) -> Proof:
    """Read what `verify` wrote."""
    content = json.loads(artifact.path(_FILE).read_text(encoding="utf-8"))
    return TypeAdapter(Proof).validate_python(content)


def verify(
    draft: Draft,
    *,
    variants: Sequence[Variant],
    task: TaskData,
    metric: str,
    limits: Gates,
    max_tokens: int,
    threads: int,
    progress: Progress,
    known: Mapping[str, Metric] | None = None,
) -> None:
    """Run every variant over dev and test and judge it; parents come before their children.

    `known` are metrics of variants that were verified before and others are held against.
    """
    torch.set_num_threads(threads)
    read: dict[str, dict[str, Rows]] = {}
    kept: dict[str, Answers] = {}
    metrics: dict[str, Metric] = dict(known or {})
    parities: dict[str, Parity] = {}
    verdicts: list[Verdict] = []
    similar: dict[str, NDArray[np.float32]] = {}
    for done, variant in enumerate(variants):
        progress.advance("verify", done, len(variants))
        splits = _splits(variant.folder, task, variant.max_tokens or max_tokens, read)
        parent = next((v for v in variants if v.name == (variant.like or variant.parent)), None)
        results: dict[str, Answers] = {}
        for name, rows in splits.items():
            compared = parent if name == "dev" else None
            if task.of_tokens:
                results[name], parity = side_by_side(
                    variant, compared, rows, task=task.task, threads=threads
                )
            else:
                results[name] = _answers(variant, rows, threads, task.task)
                parity = None
                if compared:
                    parity = _compare(results[name], kept[compared.name], compared, task)
            results[name] = _judgeable(results[name], name, similar)
            if parity:
                parities[variant.name] = parity
        kept[variant.name] = results["dev"]
        # Outputs that are not finite have no metric; their parity has failed already.
        if all(is_finite(found.outputs) for found in results.values()):
            metrics[variant.name] = _metric(metric, variant, results, metrics)
        if variant.parent:
            verdicts += _judge(variant, variants, parities[variant.name], metrics, limits, task)
    progress.advance("verify", len(variants), len(variants))
    proof = Proof(metrics=metrics, parities=parities, verdicts=tuple(verdicts))
    write_atomic(draft.folder / _FILE, json.dumps(asdict(proof), indent=2) + "\n")
    draft.format = "verify"


def _splits(
    folder: Path, task: TaskData, max_tokens: int, read: dict[str, dict[str, Rows]]
) -> dict[str, Rows]:
    """Return dev and test as the model in a folder reads them, tokenised once per tokenizer."""
    file = folder / "tokenizer.json"
    key = file_sha256(file) if file.is_file() else str(folder)
    if key not in read:
        tokenizer = load_tokenizer(folder)
        read[key] = {
            name: tokenize_split(tokenizer, split, task, max_tokens=max_tokens)
            for name, split in (("dev", task.dev), ("test", task.test))
            if split is not None
        }
    return read[key]


def _metric(
    name: str,
    variant: Variant,
    results: Mapping[str, Answers],
    metrics: Mapping[str, Metric],
) -> Metric:
    """Return the metric on dev, with the one on test beside it where there is a test split."""
    known = metrics.get(TEACHER)
    found = quality.measure(
        name,
        results["dev"].outputs,
        results["dev"].labels,
        split="dev",
        teacher=known.value if known else None,
    )
    if variant.name == TEACHER:
        found = replace(found, kept=1.0)
    if "test" in results:
        tested = quality.measure(
            name, results["test"].outputs, results["test"].labels, split="test", teacher=None
        )
        found = replace(found, others={**found.others, f"test_{name}": tested.value})
    return found


def _judge(
    variant: Variant,
    variants: Sequence[Variant],
    parity: Parity,
    metrics: Mapping[str, Metric],
    limits: Gates,
    task: TaskData,
) -> list[Verdict]:
    name, parent = variant.name, variant.parent
    if variant.precision == "fp32":
        # Another format that fails is not shipped; without ONNX there is nothing to compare with.
        blocking = variant.format == ONNX
        return [gates.exported(parity, limits, model=name, blocking=blocking)]
    parent_bytes = next(v.bytes for v in variants if v.name == parent)
    verdicts = [
        gates.cosine(parity, limits, model=name),
        gates.smaller(variant.bytes, parent_bytes, model=name),
    ]
    # A language model gives probabilities, it decides nothing: its loss says what it lost. Nor
    # does an embedding.
    if task.task not in LANGUAGE and task.task != "embed":
        verdicts.insert(1, gates.agreement(parity, limits, model=name))
    held_to = variant.held_to or parent
    if name in metrics and held_to in metrics:
        verdicts.append(gates.max_drop(metrics[name], metrics[held_to], limits, model=name))
    return verdicts


def _compare(ours: Answers, theirs: Answers, parent: Variant, task: TaskData) -> Parity:
    return compare(_array(ours), _array(theirs), against=parent.name, task=task.task)


def _array(answers: Answers) -> NDArray[np.floating]:
    outputs = answers.outputs
    if isinstance(outputs, Embeddings):
        return outputs.vectors
    assert isinstance(outputs, np.ndarray)
    return outputs


def _judgeable(found: Answers, split: str, similar: dict[str, NDArray[np.float32]]) -> Answers:
    """Return answers with what they are judged by; embeddings without scores by the first model's.

    Those are kept in `similar`. The first is the teacher, or the parent of two.
    """
    if not isinstance(found.outputs, Embeddings) or found.labels is not None:
        return found
    return replace(found, labels=similar.setdefault(split, found.outputs.vectors))


def _answers(variant: Variant, rows: Rows, threads: int, task: DataTask) -> Answers:
    """Return what a model that answers once per row says to all of them."""
    if variant.format == "torch":
        model = load_model(variant.path, task)
        if variant.rounded:
            Rounding(rounding_of(variant.path, variant.rounded, task), model)
        return evaluate(model, rows, batch_size=_BATCH)
    session = runtimes.get(variant.runtime)(
        variant.path, threads=threads, provider="CPUExecutionProvider"
    )
    # The scale of dynamic int8 activations covers the whole batch, padding included, so int8 is
    # judged as it is used: one row at a time.
    batches = list(in_order(rows, _BATCH if variant.precision == "fp32" else 1))
    found = logits_of(session, ({k: t.numpy() for k, t in b.inputs.items()} for b in batches))
    session.close()
    logits_RC = np.empty_like(found)
    logits_RC[[row for batch in batches for row in batch.rows]] = found
    if task == "embed":
        return Answers(Embeddings(vectors=logits_RC), rows.similar)
    assert isinstance(rows.labels, np.ndarray)
    return Answers(logits_RC, rows.labels)
