"""Layers that move on early: whole steps are skipped, for every term of the method alike."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.distill.conftest import STUDENT, TEACHER, Side, denominators_of, make_side
from tests.unit.distill.conftest import context_of as around
from tests.unit.distill.test_hidden_methods import RUN, Killed, Lab
from tests.unit.distill.test_hidden_methods import lab as lab
from toolchain.distill.clock import Clock
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.schedules import Gate, Unlock
from toolchain.distill.seen import Seen
from toolchain.distill.skips import Skips
from toolchain.distill.term import BoundTerm, bind
from toolchain.errors import UsageError

FAR, NEAR = 0.5, 0.1


def turns(distances: dict[int, float], *, steps: int = 20, layers: int = 3) -> list[int]:
    """The layer of each step when some steps end near the limit of 0.2; half the run is theirs."""
    skips = Skips(layers, 0.2, 0.5)
    found = []
    for step in range(steps):
        found.append(skips.turn(skips.at(Moment(step=step, steps=steps))))
        skips.observe(distances.get(step, FAR))
    return found


def test_without_a_layer_near_enough_the_steps_decide() -> None:
    assert turns({}) == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 10


def test_a_layer_that_is_near_enough_hands_its_remaining_steps_on() -> None:
    # Layer 0 after two steps of four; layer 1 in its last step, which saves nothing.
    assert turns({1: NEAR, 4: NEAR}) == [0] * 2 + [1] * 3 + [2] * 3 + [3] * 12
    assert turns({0: NEAR, 1: NEAR, 2: NEAR}) == [0, 1, 2] + [3] * 17


def test_what_follows_the_layers_ignores_the_limit() -> None:
    assert turns({step: NEAR for step in range(20)}) == [0, 1, 2] + [3] * 17
    assert turns({15: NEAR}) == turns({})


@given(
    near=st.sets(st.integers(0, 39)),
    layers=st.integers(1, 12),
    ends=st.sampled_from([0.1, 0.3, 1 / 3, 0.5, 0.7, 1.0]),
    steps=st.integers(12, 40),
)
def test_no_layer_is_left_out_and_schedules_agree_with_the_clock(
    near: set[int], layers: int, ends: float, steps: int
) -> None:
    skips, unlock = Skips(layers, 0.2, ends), Unlock("progressive", ends=ends)
    before = 0
    for step in range(steps):
        progress = skips.at(Moment(step=step, steps=steps))
        turn = skips.turn(progress)
        # One layer after another wherever each has at least one step of its own.
        assert before <= turn <= before + (1 if ends * steps >= layers else layers)
        shares = [unlock.of_pair(progress, pair, layers) for pair in range(layers)]
        assert shares == [float(pair == turn) for pair in range(layers)]
        if ends < 1:
            assert Gate(opens=ends)(progress) == float(turn == layers)
        skips.observe(NEAR if step in near else FAR)
        if step in near and turn < layers and step + 1 < steps:
            assert skips.turn(skips.at(Moment(step=step + 1, steps=steps))) > turn
        before = turn


def bound(how: str, threshold: float | None, depth: int = 2) -> tuple[BoundTerm, ...]:
    options = {"how": how, "threshold": threshold}
    terms = compose("sid", {"sid": options}).stages["pred"]
    return tuple(bind(term, TEACHER.reshaped(layers=depth), TEACHER) for term in terms)


def seen(student: Side, teachers: list[Side], mask: Tensor, labels: Tensor, step: int) -> Seen:
    context = around(mask, labels, Moment(step=step, steps=8))
    return Seen(student.captures(), tuple(t.captures() for t in teachers), context)


@pytest.mark.parametrize("how", ["stacked", "progressive"])
def test_the_turn_is_that_layers_cosine_distance_whatever_else_is_in_the_sum(
    how: str, mask: Tensor, labels: Tensor
) -> None:
    terms = bound(how, 0.9)
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    distiller = Distiller(terms).double()
    for step, layer in ((0, 1), (2, 2)):
        view = seen(student, [teacher], mask, labels, step)
        values = distiller({"plain": view}, denominators_of(terms, mask))
        first = [
            side.tensors[Request("hidden", n)][:, 0]
            for side, n in ((student, layer), (teacher, 2 * layer))
        ]
        expected = (1 - torch.cosine_similarity(*first)).mean()
        assert values["sid/cls/turn"].item() == pytest.approx(expected.item(), abs=1e-12)
        assert not values["sid/cls/turn"].requires_grad
    values = distiller(
        {"plain": seen(student, [teacher], mask, labels, 4)}, denominators_of(terms, mask)
    )
    assert values["sid/cls/turn"].item() == 0


@pytest.mark.parametrize("how", ["stacked", "progressive"])
def test_a_layer_that_agrees_unlocks_the_next_for_all_terms(
    how: str, mask: Tensor, labels: Tensor
) -> None:
    terms = bound(how, 0.9)
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    for layer in (1, 2):
        # Blocks 1 and 2 stand for 2 and 4: first tokens that agree.
        ours, theirs = Request("hidden", layer), Request("hidden", 2 * layer)
        student.tensors[ours][:, 0] = 3 * teacher.tensors[theirs][:, 0]
    distiller = Distiller(terms).double()
    live = []
    for step in range(4):
        view = {"plain": seen(student, [teacher], mask, labels, step)}
        values = distiller(view, denominators_of(terms, mask))
        live.append({name for name, value in values.items() if value != 0} - {"sid/cls/turn"})
        distiller.observe({name: float(value) for name, value in values.items()})
    # Attention never agrees, so it shows which layers count; two steps instead of four unlock both.
    predictions = {"sid/soft", "sid/labels"}
    assert predictions.isdisjoint(live[0] | live[1])
    assert all(predictions <= names for names in live[2:])
    assert all("sid/attention" in names for names in live[:2])
    assert ("sid/attention" in live[2]) == (how == "stacked")


def test_of_several_teachers_the_farthest_decides(mask: Tensor, labels: Tensor) -> None:
    stages = compose("sid", {"sid": {"threshold": 0.9}}).stages["pred"]
    spec = TEACHER.reshaped(layers=2)
    terms = tuple(
        bind(t, spec, TEACHER, i) for t in stages for i in (0, 1) if i == 0 or not t.extract.is_gold
    )
    student = make_side(STUDENT, 3, 7, seed=1)
    teachers = [make_side(TEACHER, 3, 7, seed=2), make_side(TEACHER, 3, 7, seed=3)]
    student.tensors[Request("hidden", 1)][:, 0] = teachers[0].tensors[Request("hidden", 2)][:, 0]
    distiller = Distiller(terms).double()
    view = {"plain": seen(student, teachers, mask, labels, 0)}
    values = distiller(view, denominators_of(terms, mask))
    assert values["sid/cls/turn"] < 1e-12 < values["sid/cls#2/turn"]
    distiller.observe({name: float(value) for name, value in values.items()})
    (clock,) = (m for m in distiller.modules() if isinstance(m, Skips))
    assert int(clock.skipped) == 0


def test_by_default_there_is_no_clock() -> None:
    assert not [m for m in Distiller(bound("stacked", None)).modules() if isinstance(m, Skips)]


@pytest.mark.parametrize("how", ["stacked", "progressive"])
@pytest.mark.parametrize("step", [2, 4, 9])
def test_a_run_that_skips_ends_as_if_it_had_not_been_cut(
    lab: Lab,
    tmp_path: Path,
    how: str,
    step: int,
) -> None:
    run = dataclasses.replace(RUN, steps=12, batch_size=64, checkpoint_seconds=0.0)
    settings = {"how": how, "threshold": 0.12, "unlocked": 0.75}
    whole, expected = lab.train("sid", run, tmp_path / "whole", layers=3, **settings)
    # It really skips: of nine steps for layers some are left for the predictions.
    soft = [point["parts"]["sid/soft"] > 0 for point in whole.points]
    assert 3 <= soft.index(True) < 9, soft
    with pytest.raises(Killed):
        lab.train("sid", run, tmp_path / "cut", layers=3, stop=step, **settings)
    resumed, found = lab.train("sid", run, tmp_path / "cut", layers=3, **settings)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.points == whole.points


def test_a_threshold_no_cosine_reaches_is_refused() -> None:
    with pytest.raises(UsageError, match="none is below 0"):
        compose("sid", {"sid": {"threshold": 1.2}})


def test_a_clock_that_ends_nowhere_is_refused() -> None:
    with pytest.raises(UsageError, match="it ends at 0"):
        Clock("cls", 0.1, ends=0.0)
