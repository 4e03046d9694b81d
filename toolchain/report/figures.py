"""Numbers as people read them: few digits, a unit, and a dash where nothing is known."""

from datetime import datetime

from toolchain.report.report import Tokens

__all__ = [
    "DASH",
    "at_tokens",
    "count",
    "duration",
    "higher_is_better",
    "megabytes",
    "metric_name",
    "milliseconds",
    "moment",
    "percent",
    "printable",
    "score",
    "short_digest",
    "times",
    "whole",
]

DASH = "-"

# Not strftime's %B, which follows the locale.
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

_METRICS = {
    "answer_f1": "answer F1",
    "entity_f1": "entity F1",
    "exact_match": "exact match",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews correlation",
    "micro_f1": "micro F1",
    "mse": "mean squared error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "subset_accuracy": "subset accuracy",
    "token_accuracy": "token accuracy",
}

# Told apart here, as reports are made without NumPy; a test compares it with the metrics.
_LOWER_IS_BETTER = frozenset({"loss", "mse", "perplexity"})


def milliseconds(value: float | None) -> str:
    """Three digits that matter: 0.412, 9.95, 31.2, 412."""
    if value is None:
        return DASH
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def megabytes(size: int | None) -> str:
    """Bytes as millions of bytes, without the unit: 0.42, 17.6, 612."""
    if size is None:
        return DASH
    value = size / 1e6
    digits = 0 if value >= 100 else 1 if value >= 1 else 2
    return f"{value:,.{digits}f}"


def count(number: int | None) -> str:
    """A large number with its letter: 950, 17.4M, 110M, 1.20B."""
    if number is None:
        return DASH
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        # 999.6M would otherwise be written as 1000M.
        if number >= size * 0.9995:
            value = number / size
            digits = 0 if value >= 99.95 else 1 if letter != "B" else 2
            return f"{value:.{digits}f}{letter}"
    return str(number)


def whole(number: float | None) -> str:
    """A number with thousands separated and at most three digits that matter below ten."""
    if number is None:
        return DASH
    return f"{number:,.0f}" if abs(number) >= 10 else f"{number:.2f}"


def percent(part: float | None) -> str:
    """A part of one as per cent: 98.1 %."""
    return DASH if part is None else f"{100 * part:.1f} %"


def score(value: float | None) -> str:
    """A task metric, four digits."""
    return DASH if value is None else f"{value:.4f}"


def times(ratio: float | None) -> str:
    """How many times faster: 11.8x, 5.5x, 0.85x; exactly one, as of the reference, is 1x."""
    if ratio is None:
        return DASH
    if ratio == 1:
        return "1x"
    digits = 0 if ratio >= 100 else 1 if ratio >= 1.05 else 2
    return f"{ratio:.{digits}f}x"


def duration(seconds: float | None) -> str:
    """Seconds as 0.8 s, 42 s, 3 min 12 s, 1 h 04 min."""
    if seconds is None:
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def at_tokens(tokens: Tokens | None) -> str:
    """Where a latency was taken: "at the task's lengths", "at 32 tokens"."""
    if tokens is None:
        return ""
    return "at the task's lengths" if tokens == "task" else f"at {tokens} tokens"


def moment(created: str) -> str:
    """ISO 8601 as `20 November 2026, 14:05 UTC`; anything else stays as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = when.tzname() or ""
    return f"{when.day} {_MONTHS[when.month - 1]} {when:%Y, %H:%M} {zone}".rstrip()


def metric_name(name: str) -> str:
    """A metric in words."""
    return _METRICS.get(name, name)


def higher_is_better(name: str) -> bool:
    """Which way a metric is better; higher for one that is not known here."""
    return name not in _LOWER_IS_BETTER


def printable(words: str) -> str:
    """Words on one line without control characters, which could rewrite a screen or break XML."""
    return "".join(letter if letter.isprintable() else " " for letter in words)


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest, or a dash."""
    return digest.removeprefix("sha256:")[:12] or DASH
