"""The last thing a run prints: the table, the gates, the speed-ups."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolchain.report import figures, states, words
from toolchain.report.headline import Row, basis, headline
from toolchain.report.report import Report

__all__ = ["draw", "render"]

_WIDE = 100
_NAME = 48
_STYLES = {"passed": "green", "failed": "bold red", "undecided": "yellow"}


def render(report: Report) -> bytes:
    """Return plain text, 100 columns wide at most."""
    return draw(report).encode()


def draw(report: Report, *, width: int = _WIDE, colour: bool = False) -> str:
    """Return the text for `width` columns; where one table is too wide, there are two."""
    report.validate()
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    for table in _tables(report, width):
        console.print(table)
    for line in _notes(report):
        console.print(_text(line, "dim"))
    if report.gates:
        console.print()
        console.print(_gates(report))
    if report.ratios:
        console.print()
        console.print(_comparisons(report))
        console.print(_text(_comparison_note(report), "dim"))
    lines = [*states.blocked(report), *states.not_shipped(report)]
    lines += [*words.legend(report), *(f"warning: {warning}" for warning in report.warnings)]
    if lines:
        console.print()
    for line in lines:
        console.print(_text(line))
    console.print()
    console.print(_text(words.sentence(report), "bold"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _size_cells(row: Row) -> list[str]:
    return [
        figures.count(row.parameters),
        figures.megabytes(row.file_bytes),
        figures.megabytes(row.peak_bytes),
    ]


def _speed_cells(row: Row, extra: bool) -> list[str]:
    values = [row.p50_ms, row.p90_ms, row.p99_ms] + [row.extra_p50_ms] * extra
    return [*(figures.milliseconds(value) for value in values), figures.whole(row.throughput_per_s)]


def _quality_cells(row: Row) -> list[str]:
    return [
        figures.score(row.metric.value if row.metric else None),
        figures.percent(row.kept).replace(" ", ""),
    ]


def _gain_cells(row: Row) -> list[str]:
    return [figures.times(row.speedup.median if row.speedup else None)]


def _tables(report: Report, width: int) -> list[Table]:
    """Choose the widest layout that fits: one table, one with narrow gaps, or two."""
    rows = headline(report)
    chosen = basis(report)
    extra = chosen.extra is not None
    size = ["param", "MB", "peak"]
    speed = ["p50", "p90", "p99", *([f"@{chosen.extra}"] if extra else []), "per s"]
    quality = [_cut(figures.metric_name(report.task.metric), 10).plain, "kept"]
    one = _Part(
        [*size, *speed, *quality, "speed-up"],
        [
            [*_size_cells(r), *_speed_cells(r, extra), *_quality_cells(r), *_gain_cells(r)]
            for r in rows
        ],
    )
    two = [
        _Part([*size, *quality], [[*_size_cells(r), *_quality_cells(r)] for r in rows]),
        _Part([*speed, "speed-up"], [[*_speed_cells(r, extra), *_gain_cells(r)] for r in rows]),
    ]
    names = [_name(row) for row in rows]
    wanted = min(max((cell_len(name) for name in names), default=0), _NAME)
    for parts, gap in (([one], 2), ([one], 1), (two, 2), (two, 1)):
        room = width - max(part.width(gap) for part in parts)
        if room >= wanted:
            break
    return [_table(rows, names, part, gap, max(room, _NAME // 2)) for part in parts]


@dataclass(frozen=True)
class _Part:
    """Columns of figures: heads, and one list of cells per model."""

    heads: Sequence[str]
    cells: Sequence[Sequence[str]]

    def width(self, gap: int) -> int:
        """Return the columns all figures take, gaps before them included."""
        columns = zip(self.heads, *self.cells, strict=True)
        return sum(gap + max(cell_len(cell) for cell in column) for column in columns)


def _table(rows: Sequence[Row], names: Sequence[str], part: _Part, gap: int, room: int) -> Table:
    table = Table(box=None, padding=(0, 0, 0, gap), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True, max_width=room)
    for head in part.heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row, name, cells in zip(rows, names, part.cells, strict=True):
        style = "bold" if row.shipped_for else ""
        table.add_row(_cut(name, room), *(_text(cell) for cell in cells), style=style)
    return table


def _name(row: Row) -> str:
    return f"{'*' if row.shipped_for else ' '} {row.label}{_worth(row)}"


def _cut(value: str, width: int) -> Text:
    """Shorten in the middle: names that begin alike often differ at their end."""
    shown = _text(value)
    while shown.cell_len > width:
        half = len(shown) // 2
        shown = _text(f"{shown.plain[: half - 1]}\u2026{shown.plain[half + 1 :]}")
    return shown


def _worth(row: Row) -> str:
    """Say which latencies of a row were not taken on the device."""
    entries = [entry for entry in (row.latency, row.extra) if entry is not None]
    kinds = dict.fromkeys(entry.fidelity for entry in entries if entry.fidelity != "measured")
    return f" ({', '.join(kinds)})" if kinds else ""


def _text(value: str, style: str = "") -> Text:
    """Drop line breaks and control characters, which could rewrite what stands on the screen."""
    return Text(figures.printable(value), style=style)


def _notes(report: Report) -> list[str]:
    notes = [words.conditions(report)]
    shipped = any(row.shipped_for for row in headline(report))
    marks = "* shipped; latencies in ms, MB of a million bytes; - not known"
    if any(words.p99_reason(row) for row in headline(report)):
        marks += " (a p99 needs 1,000 samples)"
    notes.append(marks if shipped else marks.removeprefix("* shipped; "))
    against = words.speedup_words(report)
    return [*notes, against] if against else notes


def _comparisons(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for item in words.comparisons(report):
        than = f"{item.fast} than {item.slow}"
        mark = " +" if item.runtime_changed else ""
        table.add_row(_text(item.factor), _text(than), _text(f"{item.quartiles}{mark}"))
    return table


def _comparison_note(report: Report) -> str:
    items = words.comparisons(report)
    how = " and ".join(dict.fromkeys(item.terms for item in items))
    runtime = "; + part of it is the runtime" if any(i.runtime_changed for i in items) else ""
    return f"median and quartiles of alternating rounds: {how}{runtime}"


def _gates(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=5)
    for gate in report.gates:
        word = states.gate_word(gate)
        said = gate.observed
        if gate.passed is not True:
            said += f" (limit: {gate.limit})" + (f": {gate.why}" if gate.why else "")
        if gate.blocking and gate.passed is False:
            said += " [blocks the run]"
        table.add_row(
            _text(word, _STYLES[word]),
            _text(gate.gate),
            _text(states.gate_model(report, gate)),
            _text(said),
        )
    return table
