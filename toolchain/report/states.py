"""How things stand after the run: gates counted and worded, what each target gets."""

from dataclasses import dataclass
from typing import Literal

from toolchain.measurement import Verdict
from toolchain.report.headline import headline, labels
from toolchain.report.report import Report
from toolchain.report.words import listed, runtime_words, thread_count

__all__ = [
    "Tally",
    "TargetState",
    "blocked",
    "gate_model",
    "gate_word",
    "not_shipped",
    "tally",
    "target_states",
]

GateWord = Literal["passed", "failed", "undecided"]


def gate_word(verdict: Verdict) -> GateWord:
    """Return a verdict as one word."""
    if verdict.passed is None:
        return "undecided"
    return "passed" if verdict.passed else "failed"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How the gates came out."""

    passed: int
    failed: int
    undecided: int
    blocking: int

    @property
    def total(self) -> int:
        """All gates."""
        return self.passed + self.failed + self.undecided

    def __str__(self) -> str:
        """As `7 of 8 gates passed, 1 failed`."""
        if not self.total:
            return "no gates were applied"
        if self.passed == self.total:
            return "the gate passed" if self.total == 1 else f"all {self.total} gates passed"
        parts = [f"{self.passed} of {self.total} gates passed"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.undecided:
            parts.append(f"{self.undecided} undecided")
        return ", ".join(parts)


def tally(report: Report) -> Tally:
    """Count the gates by verdict; `blocking` are those that failed the run."""
    words = [gate_word(gate) for gate in report.gates]
    return Tally(
        passed=words.count("passed"),
        failed=words.count("failed"),
        undecided=words.count("undecided"),
        blocking=sum(gate.blocking and gate.passed is False for gate in report.gates),
    )


def gate_model(report: Report, verdict: Verdict) -> str:
    """Return the label of the model a gate was applied to, or its name where it has none."""
    return labels(report).get(verdict.model, verdict.model)


def blocked(report: Report) -> list[str]:
    """Return, for each gate that failed the run, what it found."""
    return [
        f"gate {gate.gate} failed the run: {gate_model(report, gate)} has {gate.observed}, "
        f"limit {gate.limit}"
        for gate in report.gates
        if gate.blocking and gate.passed is False
    ]


def not_shipped(report: Report) -> list[str]:
    """Return, for each student variant kept back, the gates it did not pass."""
    lines = []
    for row in headline(report):
        if row.model.role != "student" or row.shipped_for or not report.shipped:
            continue
        # The run may have said so itself, and why, target by target.
        if any(warning.startswith(f"{row.name} is not shipped") for warning in report.warnings):
            continue
        failed = [g for g in report.gates if g.model == row.name and g.passed is False]
        if failed:
            reasons = "; ".join(f"{g.gate}: {g.observed}, limit {g.limit}" for g in failed)
            lines.append(f"{row.label} is not shipped ({reasons})")
    return lines


@dataclass(frozen=True, kw_only=True)
class TargetState:
    """What is known about one target: what it gets, and what its latency figures are worth.

    `shipped` is empty where shipping was not asked for; `fidelity` is "measured", "emulated",
    "estimated" or "not measured".
    """

    name: str
    shipped: str
    path: str
    fidelity: str
    conditions: str


def target_states(report: Report) -> list[TargetState]:
    """Return the state of every target the run shipped for or timed on."""
    words = labels(report)
    timed = [entry for model in report.models for entry in model.latency]
    targets = dict.fromkeys([*report.shipped, *(entry.target for entry in timed)])
    states = []
    for name in targets:
        entries = [entry for entry in timed if entry.target == name]
        variant = report.shipped.get(name)
        fidelity = ", ".join(dict.fromkeys(entry.fidelity for entry in entries))
        loads = sorted({str(e.tokens) for e in entries}, key=lambda w: (len(w), w))
        runtimes: dict[int, dict[str, None]] = {}
        for entry in entries:
            runtimes.setdefault(entry.threads, {})[runtime_words(entry.runtime)] = None
        said = [f"{listed(names)}, {thread_count(n)}" for n, names in sorted(runtimes.items())]
        conditions = f"{'; '.join(said)}; tokens: {', '.join(loads)}" if entries else ""
        states.append(
            TargetState(
                name=name,
                shipped=words[variant.model] if variant else "nothing" * (name in report.shipped),
                path=variant.path if variant else "",
                fidelity=fidelity or "not measured",
                conditions=conditions,
            )
        )
    return states
