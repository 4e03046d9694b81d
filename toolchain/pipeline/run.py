"""compress(): the whole road from a teacher to bundles and a report, in ordered steps.

Every step reads finished folders and writes one. A step already done with the same inputs is
skipped; a kill between or inside steps is resumed by the same call.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import GateNotMet, IntegrityError
from toolchain.pipeline.choosing import chosen, measured
from toolchain.pipeline.conversion import Conversion
from toolchain.pipeline.lineup import Lineup
from toolchain.pipeline.packing import Packing
from toolchain.pipeline.proving import adapted, proved
from toolchain.plan import Plan
from toolchain.progress import Journal, Null, Progress, Tee
from toolchain.publish import publish
from toolchain.report.report import Report
from toolchain.rundir import RunFolder, StepLog, claim
from toolchain.scale import launch
from toolchain.steps.report import Findings, gather
from toolchain.teaching import Teaching
from toolchain.verify.choice import Shipping

__all__ = ["Outcome", "compress", "take_part"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run leaves: the report, and where things lie."""

    output: Path
    report: Report
    shipping: Mapping[str, Shipping]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints: where things lie and what ships where."""
        shipped = {
            name: {"model": s.model, "why": s.why, "bundle": str(self.output / "bundles" / name)}
            for name, s in self.shipping.items()
        }
        report = str(self.output / "report" / "report.json")
        return {"output": str(self.output), "report": report, "shipped": shipped}


def compress(plan: Plan, output: Path, *, command: str, progress: Progress) -> Outcome:
    """Do every step of the plan and publish the results into `output`.

    Raises IntegrityError (4) when the export does not equal the student, GateNotMet (3) when what
    ships misses a limit that was asked for; artefacts and report are kept in both cases.
    """
    with (
        claim(output, plan.recipe) as folder,
        closing(Journal(output / "events.jsonl")) as journal,
    ):
        telling = Tee(progress, journal)
        log = StepLog(folder, telling)
        teaching = Teaching(plan, log, tensorboard=output / "tensorboard")
        teaching.all()
        # What follows is one process's work.
        launch.part()
        Conversion(plan, log).all(teaching.teacher)
        lineup = Lineup(plan, log, teaching.teacher)
        proof = adapted(lineup, teaching, proved(lineup))
        timing = measured(lineup, proof)
        shipping, verdicts = chosen(lineup, proof, timing)
        packing = Packing(lineup, proof, timing, shipping)
        packing.put_inside()
        packing.pack()
        findings = Findings(
            plan=plan,
            command=command,
            variants=lineup.all(proof),
            proof=proof,
            timing=timing,
            verdicts=verdicts,
            shipping=shipping,
            steps=log.steps,
            trained=teaching.trained(),
            texts=packing.said(),
        )
        report = gather(findings)
        publish(output, packing.published(), report, plan, log.steps, telling)
    _raise_for(shipping, output)
    return Outcome(output=output, report=report, shipping=shipping)


def take_part(plan: Plan, output: Path) -> None:
    """Train beside the main process, which does all the rest of the run."""
    Teaching(plan, StepLog(RunFolder(output), Null())).all()
    launch.part()


def _raise_for(shipping: Mapping[str, Shipping], output: Path) -> None:
    where = f"the report in {output / 'report'} has the figures"
    for shipped in shipping.values():
        if not shipped.proved:
            raise IntegrityError(shipped.why, where)
    missed = {
        f"{v.gate}: {v.limit}, found {v.observed}" for s in shipping.values() for v in s.unmet
    }
    if missed:
        raise GateNotMet(f"a gate was not met: {'; '.join(sorted(missed))}", where)
    empty = [s.why for s in shipping.values() if s.model is None]
    if empty:
        raise GateNotMet("; ".join(empty), where)
