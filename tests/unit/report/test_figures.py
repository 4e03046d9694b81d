import pytest

from toolchain.metrics import METRICS
from toolchain.report import figures


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.412, "0.412"),
        (0.9, "0.900"),
        (9.951, "9.95"),
        (31.24, "31.2"),
        (412.3, "412"),
        (None, "-"),
    ],
)
def test_milliseconds_have_three_digits(value: float | None, said: str) -> None:
    assert figures.milliseconds(value) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (950, "950"),
        (4_386_178, "4.4M"),
        (22_713_986, "22.7M"),
        (109_483_778, "109M"),
        (999_960_000, "1.00B"),
        (7_241_732_096, "7.24B"),
        (None, "-"),
    ],
)
def test_counts_carry_a_letter(number: int | None, said: str) -> None:
    assert figures.count(number) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [(420_000, "0.42"), (17_602_114, "17.6"), (612_000_000, "612"), (1_340_000_000, "1,340")],
)
def test_megabytes_are_a_million_bytes(size: int, said: str) -> None:
    assert figures.megabytes(size) == said


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(11.04, "11.0x"), (5.51, "5.5x"), (1.0, "1x"), (1.02, "1.02x"), (130, "130x")],
)
def test_factors(ratio: float, said: str) -> None:
    assert figures.times(ratio) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3840, "1 h 04 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert figures.duration(seconds) == said


def test_what_is_unknown_is_a_dash() -> None:
    functions = (
        figures.milliseconds, figures.megabytes, figures.count, figures.whole, figures.percent,
        figures.score, figures.times, figures.duration,
    )  # fmt: skip
    assert {function(None) for function in functions} == {"-"}
    assert figures.short_digest("") == "-"


def test_a_metric_of_zero_is_not_unknown() -> None:
    assert figures.score(0.0) == "0.0000"
    assert figures.percent(0.0) == "0.0 %"
    assert figures.count(0) == "0"


def test_dates_are_written_out_whatever_the_locale() -> None:
    assert figures.moment("2026-11-20T14:05:31+00:00") == "20 November 2026, 14:05 UTC"
    assert figures.moment("yesterday") == "yesterday"


def test_control_characters_are_taken_out() -> None:
    assert figures.printable("a\x1b[31m\nb\u202ec") == "a [31m b c"


def test_reports_and_metrics_agree_on_which_way_is_better() -> None:
    for name, metric in METRICS.items():
        assert figures.higher_is_better(name) == (metric.sign > 0)
    assert figures.higher_is_better("a metric nobody knows")


def test_metrics_are_written_in_words() -> None:
    assert figures.metric_name("entity_f1") == "entity F1"
    assert not [name for name in METRICS if "_" in figures.metric_name(name)]
