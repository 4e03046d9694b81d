"""Writing a study: study.json, study.md and study.html beside each other."""

import json
from importlib import resources
from pathlib import Path

from markupsafe import Markup, escape

from toolchain.artifact import write_atomic
from toolchain.report import figures
from toolchain.report.page_models import Fact
from toolchain.report.page_run import machine
from toolchain.report.renderers.html import page_environment, style
from toolchain.report.renderers.markdown import cell, escaped, table
from toolchain.study import words
from toolchain.study.findings import Findings
from toolchain.study.plot import differences

__all__ = ["write"]


def write(findings: Findings, folder: Path) -> None:
    """Write every form of the findings; all are made before the first is written."""
    contents = {
        "study.json": json.dumps(findings.as_json(), indent=2, allow_nan=False) + "\n",
        "study.md": _markdown(findings),
        "study.html": _html(findings),
        "guideline.yaml": findings.recipe_yaml,
    }
    for name, content in contents.items():
        write_atomic(folder / name, content)


def _markdown(findings: Findings) -> str:
    parts = [f"# Study: {cell(findings.design.base.plan.task.name)}"]
    parts.append(f"**{cell(words.sentence(findings))}**")
    lines = [[words.TITLES[a.name], cell(said.sentence)] for a, _, said in findings.compared]
    parts += ["## Guideline", table(["axis", "what it says"], lines, words_first=2)]
    parts += ["For `toolchain compress` (guideline.yaml):", f"```yaml\n{findings.recipe_yaml}```"]
    for axis, found, _ in findings.compared:
        rows = [[cell(word) for word in words.cells(effect)] for effect in found]
        parts += [f"## {words.TITLES[axis.name]}", table(words.HEADS, rows)]
    if findings.design.refused:
        refused = [
            f"- {escaped(r.choice)} ({r.axis}): {cell(r.why)}" for r in findings.design.refused
        ]
        parts += ["## Not tried", "\n".join(refused)]
    parts += ["## How to read it", "\n".join(f"- {escaped(s)}" for s in words.held_equal(findings))]
    facts = [Fact(name="command", value=findings.command), *machine(findings.environment)]
    said = "\n".join(f"- {escaped(fact.name)}: {cell(fact.value)}" for fact in facts)
    parts += ["## Environment", said]
    return "\n\n".join(parts) + "\n"


def _html(findings: Findings) -> str:
    template = page_environment(_part).get_template("_study.html.j2")
    return template.render(
        task=findings.design.base.plan.task.name,
        created=figures.moment(findings.created),
        sentence=words.sentence(findings),
        heads=words.HEADS,
        axes=[
            (
                words.TITLES[axis.name],
                said,
                [(words.cells(effect), effect.choice == said.choice) for effect in found],
                differences(findings, axis.name, found),
            )
            for axis, found, said in findings.compared
        ],
        refused=findings.design.refused,
        notes=tuple(words.held_equal(findings)),
        recipe=escape(findings.recipe_yaml),
        command=findings.command,
        environment=tuple(machine(findings.environment)),
        style=style(),
        svg=Markup,
    )


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
