"""Effects and guidelines: paired by seed, with t-intervals, and silent where seeds decide."""

import pytest

from toolchain.study.design import Axis, Choice
from toolchain.study.findings import Effect, Guideline, Sample, effects, guideline


def read(*, up: bool = True, **metrics: list[float]) -> tuple[list[Effect], Guideline]:
    """The effects of an axis whose choices had these metrics, one per seed; the first is first."""
    axis = Axis(name="matching", choices=tuple(Choice(name=n, variant=n) for n in metrics))
    samples = {
        name: {
            seed: Sample(
                variant=name, seed=seed, metric=m, seconds=1.0, samples_per_s=1.0, parameters=9
            )
            for seed, m in enumerate(values)
        }
        for name, values in metrics.items()
    }
    found = effects(axis, samples, up=up)
    return found, guideline("matching", found, up=up)


def test_a_difference_is_paired_by_seed_and_has_the_t_interval_of_its_seeds() -> None:
    # Differences 0.01, 0.02, 0.03: sd 0.01, and t(0.975, 2 degrees) = 4.303.
    found, _ = read(base=[0.5, 0.6, 0.7], other=[0.51, 0.62, 0.73])
    other = found[1]
    assert other.difference == pytest.approx(0.02)
    half = 4.303 * 0.01 / 3**0.5
    assert other.ci95 == pytest.approx((0.02 - half, 0.02 + half))
    assert (found[0].difference, found[0].ci95) == (None, None)
    assert [e.rank for e in found] == [2, 1]


def test_a_clear_win_is_named_with_its_interval() -> None:
    _, said = read(base=[0.50, 0.60, 0.70], a=[0.60, 0.701, 0.80], b=[0.5, 0.61, 0.69])
    assert (said.choice, said.told_apart) == ("a", True)
    assert said.sentence.startswith("a wins over base, by +0.1003 (+0.0989 to +0.1018)")


def test_differences_within_the_seeds_keep_the_reference() -> None:
    _, said = read(base=[0.5, 0.6, 0.7], a=[0.6, 0.5, 0.8], b=[0.4, 0.7, 0.6])
    assert (said.choice, said.told_apart) == ("base", False)
    assert said.sentence == "all differences lie within what seeds make of them: keep base."


def test_a_reference_better_than_all_wins_and_one_better_than_some_stays() -> None:
    base = [0.5, 0.6, 0.7]
    low, wild = [0.4, 0.501, 0.6], [0.6, 0.5, 0.8]
    assert read(base=base, low=low)[1].sentence.startswith("base wins")
    said = read(base=base, low=low, wild=wild)[1]
    assert said.choice == "base"
    assert said.sentence == "low is worse than base; wild cannot be told from it: keep base."


def test_one_that_is_higher_on_average_but_not_told_apart_is_mentioned() -> None:
    _, said = read(base=[0.5, 0.6, 0.7], a=[0.51, 0.611, 0.71], wild=[0.9, 0.5, 0.8])
    assert said.choice == "a"
    assert "wild is better on average, but not beyond the seeds" in said.sentence


def test_lower_is_better_where_the_metric_says_so() -> None:
    found, said = read(up=False, base=[0.50, 0.60, 0.70], a=[0.40, 0.501, 0.60])
    assert said.choice == "a"
    assert [e.rank for e in found] == [2, 1]


def test_one_seed_tells_nothing_apart() -> None:
    found, said = read(base=[0.5], a=[0.9])
    assert found[1].ci95 is None
    assert (said.choice, said.told_apart) == ("base", False)
    assert "one seed cannot tell" in said.sentence


def test_choices_that_all_answer_alike_have_not_learned_yet() -> None:
    _, said = read(base=[0.5, 0.52], a=[0.5, 0.52])
    assert not said.told_apart
    assert "learned nothing yet" in said.sentence


def test_seeds_that_agree_to_the_last_digit_prove_nothing() -> None:
    """Two seeds of a metric on few rows often give the same difference."""
    assert not read(base=[0.5, 0.75], a=[0.625, 0.875])[1].told_apart
