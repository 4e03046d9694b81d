"""What can be said of a method without running it: stages, knowledge, requirements, citation.

Requirements are not written down anywhere: a method's terms are bound to pairs of shapes that
differ in one thing, and what is refused is required.
"""

import dataclasses
import inspect
import re
from dataclasses import dataclass

from toolchain.distill.extract import KNOWLEDGE
from toolchain.distill.memory import loss_bytes
from toolchain.distill.reduction import REDUCTIONS
from toolchain.distill.shapes import Unfit
from toolchain.distill.term import STAGES, Method, bind, find_method, methods
from toolchain.distill.written import AXES, parts_of
from toolchain.errors import UsageError
from toolchain.spec import ModelSpec

__all__ = ["LOSS_SHAPE", "Card", "card", "cards", "loss_sizes", "markdown_table"]

_TEACHER = ModelSpec(
    family="bert", layers=12, width=768, heads=12, ffn=3072, vocab=30522, max_tokens=512,
    num_labels=3,
)  # fmt: skip
_STUDENT = dataclasses.replace(_TEACHER, layers=6)
_DECODER = dataclasses.replace(_TEACHER, causal=True, task="causal_lm")
_DEPTH = "equal depth"
_MINILM = dataclasses.replace(_TEACHER, layers=6, width=384, ffn=1536, head_width=0, kv_heads=0,
    embedding_width=0)  # fmt: skip
_SMALL = dataclasses.replace(_MINILM, layers=3)
_BATCH, _TOKENS = 8, 512
LOSS_SHAPE = f"{_SMALL.layers} x 384 from 6 x 384, {_BATCH} rows of {_TOKENS} tokens"
"""Where the memory of losses is shown."""

# What a student is like that differs from the teacher in one thing, and the name of that thing.
_PROBES: tuple[tuple[str, ModelSpec], ...] = (
    ("equal heads", dataclasses.replace(_STUDENT, heads=6)),
    ("equal width", dataclasses.replace(_STUDENT, width=384)),
    (_DEPTH, _STUDENT),
    ("depth <= teacher", dataclasses.replace(_STUDENT, layers=13)),
    ("equal outcomes", dataclasses.replace(_STUDENT, num_labels=5)),
)
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_CITED = re.compile(r"\(([^()]*\b(?:19|20)\d\d)\)\.?$")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One method at a glance."""

    name: str
    summary: str
    stages: tuple[str, ...]
    knowledge: tuple[str, ...]
    requirements: tuple[str, ...]
    citation: str

    def as_json(self) -> dict[str, object]:
        """Return the card for `--json`."""
        return dataclasses.asdict(self)


def card(name: str) -> Card:
    """Return the card of one method. Raises UsageError for an unknown name."""
    method = find_method(name)()
    terms = method.terms()
    used = {term.stage for term in terms}
    return Card(
        name=name,
        summary=methods.summary(name),
        stages=tuple(stage for stage in STAGES if stage in used),
        knowledge=tuple(sorted({term.extract.kind for term in terms})),
        requirements=_requirements(method),
        citation=_citation(name),
    )


def cards() -> tuple[Card, ...]:
    """Return all cards, by name."""
    return tuple(card(name) for name in methods.names())


def loss_sizes(name: str) -> tuple[tuple[str, str, int], ...]:
    """Return stage, term and estimated bytes of the loss of each term at `LOSS_SHAPE`.

    A method that wants another student is shown for one of its teacher's shape.
    """
    method = find_method(name)()
    student = _SMALL if _fits_all(method, _SMALL, _MINILM) else _MINILM
    return tuple(
        (t.stage, t.name, loss_bytes(t, student, _MINILM, _BATCH, _TOKENS)) for t in method.terms()
    )


def _fits_all(method: Method, student: ModelSpec, teacher: ModelSpec) -> bool:
    try:
        for term in method.terms():
            bind(term, student, teacher)
    except UsageError:
        return False
    return True


def markdown_table() -> str:
    """Return the table of all methods for the user guide."""
    lines = ["| method | what it does | stages | knowledge | requires | source |", "|" + "---|" * 6]
    for c in cards():
        cells = (
            f"`{c.name}`",
            c.summary,
            ", ".join(c.stages),
            ", ".join(c.knowledge),
            ", ".join(c.requirements) or "-",
            c.citation,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def axes_table() -> str:
    """Return the table of the parts recipes may name, for the user guide."""
    rows: dict[str, list[str]] = {"knowledge": sorted(KNOWLEDGE)}
    rows |= {axis: list(parts_of(axis)) for axis in AXES}
    rows["reduction"] = sorted(REDUCTIONS)
    lines = ["| axis | names |", "|---|---|"]
    for axis, names in rows.items():
        lines.append(f"| {axis} | {', '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines) + "\n"


def filled_in(text: str) -> str:
    """Return a page of the user guide with its tables made anew between their marks."""
    for mark, table in (("axes", axes_table()), ("table", markdown_table())):
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{table}{end}{rest.partition(end)[2]}"
    return text


def _requirements(method: Method) -> tuple[str, ...]:
    probes = _PROBES
    if not _fits(method, _STUDENT):
        # Refused for its depth: the other probes say something only at the teacher's depth.
        probes = tuple(
            (what, s if what == _DEPTH else dataclasses.replace(s, layers=_TEACHER.layers))
            for what, s in _PROBES
        )
    needed = [what for what, student in probes if not _fits(method, student)]
    # Where a decoder alone can be operated on, it is asked, else a classifier.
    teacher = _TEACHER if _operable(method, _TEACHER, _TEACHER) else _DECODER
    if not _fits(method, dataclasses.replace(teacher, tokenizer="another"), teacher):
        needed.append("same tokenizer")
    terms, aggregation = method.terms(), method.aggregation()
    if any(t.extract.is_gold or t.objective.needs_labels for t in terms) or (
        aggregation and aggregation.needs_labels
    ):
        needed.append("labels")
    if method.needs_teachers > 1:
        needed.append(f"{method.needs_teachers} teachers")
    if method.needs_assistants:
        needed.append(f"{method.needs_assistants} assistant")
    kinds = (("decoder", _TEACHER), ("encoder", _DECODER))
    needed += [what for what, spec in kinds if not _operable(method, spec, spec)]
    return tuple(needed)


def _fits(method: Method, student: ModelSpec, teacher: ModelSpec = _TEACHER) -> bool:
    try:
        for term in method.terms():
            bind(term, student, teacher)
    except UsageError:
        return False
    return _operable(method, student, teacher) or not _operable(method, teacher, teacher)


def _operable(method: Method, student: ModelSpec, teacher: ModelSpec) -> bool:
    surgery = method.surgery()
    try:
        for part in (*method.operators(), *((surgery,) if surgery else ())):
            part.check(student, teacher)
    except Unfit:
        return False
    return True


def _citation(name: str) -> str:
    cited = _CITED.search(methods.summary(name))
    arxiv = _ARXIV.search(inspect.getdoc(find_method(name)) or "")
    found = [cited[1] if cited else "", f"arXiv {arxiv[1]}" if arxiv else ""]
    return ", ".join(part for part in found if part)
