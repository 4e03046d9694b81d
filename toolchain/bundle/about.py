"""What a bundle says about itself: bundle.json, read by its scripts, and shown by its README.

Figures taken by the run are those of the machine they were taken on. They are claimed for the
target only where the run itself executed there (`Target.fidelity` is "measured").
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from toolchain.bundle.engines import Engine, engine_of
from toolchain.bundle.forms import Form, form_of
from toolchain.measurement import Measurement, Metric
from toolchain.recipe import DataTask
from toolchain.target import Target

__all__ = ["CLOSE_CALL", "REQUIRES", "TEXT_MODEL", "About", "Kind", "ModelFile", "Padding"]

Kind = Literal["single", "pair"]

# What a bundle asks for beside what runs its model.
REQUIRES: Mapping[str, str] = {"tokenizers": "0.21", "numpy": "1.26"}

TEXT_MODEL = "text_model.onnx"
"""The file with the tokenizer inside, where a bundle has one."""

# A decision whose margin is below this part of the median margin is not judged in int8.
CLOSE_CALL = 0.1


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What the model's file declares: its digest, size, versions and the names it takes and gives.

    `opset` and `ir_version` are 0 where a format has none. Two outputs stand in `output` with a
    blank between them. `width` is that of the vectors it gives, 0 where it gives answers. `weights`
    is the file beside it that it keeps them in, if any.
    """

    sha256: str
    file_bytes: int
    opset: int
    ir_version: int
    inputs: tuple[str, ...]
    output: str
    width: int = 0
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Padding:
    """What tokenizer.json may leave open: how rows are padded, from which end they are cut.

    And which tokens stand for a gap, the beginning and the end of a text; None where there is none.
    """

    pad_id: int
    pad_token: str
    pad_type_id: int
    truncation_side: str
    mask_id: int | None = None
    mask_token: str | None = None
    begin_id: int | None = None
    end_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class About:
    """Everything bundle.json holds. `max_tokens` counts the special tokens too.

    `unanswered` says of a model for questions whether giving no answer is an answer.
    """

    target: Target
    model: ModelFile
    padding: Padding
    labels: tuple[str, ...]
    kind: Kind
    max_tokens: int
    precision: str
    lineage: Mapping[str, str]
    metric: Metric | None
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    task: DataTask = "classify"
    format: str = "onnx"
    text_model: bool = False
    unanswered: bool = False

    @property
    def engine(self) -> Engine:
        """What runs the model there."""
        return engine_of(self.format)

    @property
    def requires(self) -> dict[str, str]:
        """What must be installed there, at least in which version."""
        return {self.engine.requirement: self.engine.minimum, **self.engine.needs, **REQUIRES}

    @property
    def form(self) -> Form:
        """How models for the task are packed."""
        return form_of(self.task)

    @property
    def tolerances(self) -> dict[str, float]:
        """How far outputs on the device may be from the recorded ones.

        fp32: each logit. Anything else is not the same to the last bit on every CPU: cosine of
        each row (or token, where each has an answer) and on average, equal decisions, both without
        close calls. A vector decides nothing: cosines alone. A score has no direction
        and decides nothing: its distance, on average and in each row, in standard deviations of
        the recorded scores.
        """
        if self.precision == "fp32":
            return {"max_abs": 1e-4}
        if self.task == "regress":
            return {"mean_distance": 0.1, "row_distance": 0.5}
        if self.form.vector:
            return {"row_cosine": 0.99, "mean_cosine": 0.999}
        return {"row_cosine": 0.99, "mean_cosine": 0.999, "close_call": CLOSE_CALL}

    @property
    def claim(self) -> str:
        """What the figures are worth for the target, in one sentence."""
        if self.target.fidelity == "measured":
            return f"measured on {self.target.name}, which is the machine that made this bundle"
        return (
            f"nothing was measured on {self.target.name}; figures are those of the machine that "
            f"made this bundle and say nothing about {self.target.name}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the content of bundle.json, schema 1."""
        return {
            "schema": 1,
            "target": {
                "name": self.target.name,
                "kind": self.target.kind,
                "summary": self.target.summary,
                "notes": self.target.notes,
            },
            "task": self.task,
            "program": {"script": self.form.script, "name": self.form.name},
            "labels": list(self.labels),
            "kind": self.kind,
            "max_tokens": self.max_tokens,
            "tokenizer": asdict(self.padding),
            "precision": self.precision,
            "inputs": list(self.model.inputs),
            "output": self.model.output,
            **({"unanswered": self.unanswered} if self.form.windows else {}),
            "text_model": TEXT_MODEL if self.text_model else None,
            "model": {
                "sha256": self.model.sha256,
                "file_bytes": self.model.file_bytes,
                "opset": self.model.opset,
                "ir_version": self.model.ir_version,
                **({"width": self.model.width} if self.form.vector else {}),
                **({"weights": self.model.weights} if self.model.weights else {}),
            },
            "runtime": {
                "name": self.engine.package,
                "minimum": self.engine.minimum,
                "provider": self.target.runtime.provider,
                "threads": self.target.runtime.threads,
            },
            "tolerances": self.tolerances,
            "lineage": dict(self.lineage),
            "figures": {
                "claim": self.claim,
                "metric": self.metric.as_json() if self.metric else None,
                "latency": [_latency(measured) for measured in self.measurements],
            },
            "notes": list(self.notes),
        }


def _latency(measured: Measurement) -> dict[str, Any]:
    """Return a `latency[]` entry of report.json without its raw samples, which stay there."""
    entry = measured.as_json()
    del entry["samples"], entry["round_sizes"]
    return {"measured_on": entry.pop("target"), **entry}
