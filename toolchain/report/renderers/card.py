"""README.md: the model card, with front matter that model hubs read."""

import json
import re

import yaml

from toolchain.report import figures, states, words
from toolchain.report.headline import Row, subject
from toolchain.report.renderers.markdown import cell, escaped, model_table
from toolchain.report.report import Report

__all__ = ["render"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
# By task: what the hub calls it, and the class that loads it.
_PIPELINES = {
    "causal_lm": "text-generation",
    "classify": "text-classification",
    "embed": "sentence-similarity",
    "encode": "feature-extraction",
    "mask_lm": "fill-mask",
    "multi_label": "text-classification",
    "qa": "question-answering",
    "regress": "text-classification",
    "tag": "token-classification",
}
_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "classify": "AutoModelForSequenceClassification",
    "embed": "AutoModel",
    "encode": "AutoModel",
    "mask_lm": "AutoModelForMaskedLM",
    "multi_label": "AutoModelForSequenceClassification",
    "qa": "AutoModelForQuestionAnswering",
    "regress": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
}


def render(report: Report) -> bytes:
    """Return the card of the model the report is about."""
    report.validate()
    row = subject(report)
    sections = [
        _front_matter(report),
        f"# {cell(_name(report))}",
        f"**{cell(words.sentence(report))}**",
        _lineage(report),
        _loading(report, row),
        _figures(report),
        _limits(report, row),
    ]
    return ("\n\n".join(section for section in sections if section) + "\n").encode()


def _name(report: Report) -> str:
    student = report.plan.student if report.plan else None
    base = _base(report)
    if student is None or not base:
        return report.task.name
    return f"{base}, distilled to {student.layers} layers of {student.width}"


def _base(report: Report) -> str:
    """The teacher's name without the folders it lies in on somebody's machine."""
    base = figures.printable(report.base_model or "").strip()
    return base if _HUB_ID.fullmatch(base) else base.rstrip("/\\").replace("\\", "/").split("/")[-1]


def _task(report: Report) -> str:
    spec = report.plan.student or report.plan.teacher if report.plan else None
    return spec.task if spec else ""


def _front_matter(report: Report) -> str:
    """YAML written by a YAML writer, so that no name can break out of its value."""
    tags = ["toolchain", *(["knowledge-distillation"] if _has_student(report) else []), "onnx"]
    entries: dict[str, object] = {"license": report.license or "unknown"}
    if _HUB_ID.fullmatch(_base(report)):
        entries["base_model"] = _base(report)
    embeds = _task(report) == "embed"
    entries["library_name"] = "sentence-transformers" if embeds else "transformers"
    if _task(report):
        entries["pipeline_tag"] = _PIPELINES[_task(report)]
    entries["tags"] = tags
    entries["metrics"] = [figures.printable(report.task.metric)]
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=False)}---"


def _has_student(report: Report) -> bool:
    return any(model.role == "student" for model in report.models)


def _lineage(report: Report) -> str:
    lines = []
    shape = report.plan.teacher if report.plan else None
    known = [part for part in (_base(report), str(shape or "")) if part]
    if known:
        lines.append(f"- teacher: {cell(', '.join(known))}")
    if report.plan:
        facts = [
            ("student", str(report.plan.student or "")),
            ("initialisation", report.plan.init),
            ("method", report.plan.method),
            ("terms", ", ".join(report.plan.terms)),
        ]
        lines += [f"- {name}: {cell(value)}" for name, value in facts if value]
    rows = [f"{n:,} {split}" for split, n in report.task.rows.items() if n is not None]
    if rows:
        lines.append(f"- rows of {cell(report.task.name)}: {cell(', '.join(rows))}")
    if report.digest:
        lines.append(f"- recipe: {cell(report.digest)}, saved as recipe.yaml")
    lines.append(f"- licence of the teacher's weights: {cell(words.license_words(report))}")
    return "## Where it comes from\n\n" + "\n".join(lines)


def _loading(report: Report, row: Row | None) -> str:
    asks = _task(report) == "qa"
    code = _TRANSFORMERS.format(
        auto=_CLASSES.get(_task(report), "AutoModel"),
        texts='"A question?", "A text."' if asks else '"A text."',
        # Of a question where its answer begins, and where it ends.
        first="[:2]" if asks else "[0]",
    )
    parts = ["## How to load it"]
    if _task(report) == "embed":
        parts += ["With sentence-transformers:", f"```python\n{_SENTENCES}```"]
    else:
        parts += ["With transformers:", f"```python\n{code}```"]
    path = row.model.path if row is not None and row.model.format == "onnx" else ""
    # A fence of code ends at its own sign, whatever surrounds it.
    if path and "```" not in path:
        more = _CACHE if _task(report) == "causal_lm" else ""
        code = _ONNX.format(
            path=json.dumps(path),
            more=more,
            texts='["A question?"], ["A text."]' if asks else '["A text."]',
            first="" if asks else "[0]",
        )
        parts += ["With ONNX Runtime:", f"```python\n{code}```"]
    return "\n\n".join(parts)


def _figures(report: Report) -> str:
    if not report.models:
        return ""
    notes = [words.conditions(report), words.speedup_words(report)]
    text = escaped(" ".join(note for note in notes if note))
    return f"## Figures\n\n{model_table(report)}\n\n{text}"


def _limits(report: Report, row: Row | None) -> str:
    metric = figures.metric_name(report.task.metric)
    lines = [
        f"It is made for {report.task.name}, on text like that of its data; on other text its "
        f"{metric} is not known.",
        "It inherits what its teacher learned, errors and biases included; "
        "neither was examined here.",
    ]
    if row is not None and row.metric is not None and row.metric.ci95 is not None:
        low, high = row.metric.ci95
        lines.append(
            f"Its {metric} on {row.metric.split} is {row.metric.value:.4f} with a 95 % interval "
            f"of {low:.4f} to {high:.4f} ({row.metric.rows:,} rows, seeds: {row.metric.seeds})."
        )
    if row is not None and row.model.parity is not None and row.model.parity.agreement < 1:
        parity = row.model.parity
        parent = words.parent_words(report, parity.against)
        part = f"{figures.percent(1 - parity.agreement)} of {parity.rows:,} {parity.unit}"
        lines.append(
            f"Its vector and that of {parent} have a cosine below 0.99 in {part}."
            if _task(report) == "embed"
            else f"It decides otherwise than {parent} in {part}."
        )
    lines += [
        f"No latency was measured on {state.name}."
        for state in states.target_states(report)
        if state.fidelity == "not measured"
    ]
    lines += [f"{line[0].upper()}{line[1:]}." for line in states.not_shipped(report)]
    lines += [f"{line[0].upper()}{line[1:]}." for line in states.blocked(report)]
    lines += [f"Warning: {warning}" for warning in report.warnings]
    body = "\n".join(f"- {escaped(line)}" for line in lines)
    return f"## What it is for, and its limits\n\n{body}"


_TRANSFORMERS = """\
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained(".").eval()
print(model(**tokenizer({texts}, return_tensors="pt")){first})
"""

_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
print(model.encode(["A text."]))
"""

# What a decoder takes besides: nothing remembered yet.
_CACHE = """\
feeds["position_ids"] = np.arange(feeds["input_ids"].shape[1])[None]
for item in session.get_inputs():
    if item.name.startswith("past_key_values."):
        feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), dtype=np.float32)
"""

_ONNX = """\
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession({path}, providers=["CPUExecutionProvider"])
wanted = {{item.name for item in session.get_inputs()}}
batch = tokenizer({texts}, truncation=True, return_tensors="np")
feeds = {{key: np.asarray(ids, dtype=np.int64) for key, ids in batch.items() if key in wanted}}
{more}print(session.run(None, feeds){first})
"""
