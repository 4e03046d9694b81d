"""Matchings that draw, mix, transport or choose layers, in float64 against slow twins."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.distill import twins
from tests.unit.distill.conftest import STUDENT, TEACHER
from toolchain.distill import extract, matching, objectives, reduction
from toolchain.distill.context import Context, Moment
from toolchain.distill.matching.layer_weights import LayerWeights
from toolchain.distill.matching.nearest import monotone_assignment
from toolchain.distill.matching.transport import transport
from toolchain.distill.term import Term, bind
from toolchain.errors import UsageError
from toolchain.layermap import LayerMap

g = torch.Generator().manual_seed(7)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def around(epoch: int = 0, seed: int = 0) -> Context:
    moment = Moment(step=epoch, steps=9, epoch=epoch, seed=seed)
    return Context(mask_BN=torch.ones(4, 1, dtype=torch.long), moment=moment)


AROUND = around()


def layers(depth: int, *shape: int) -> dict[int, Tensor]:
    return {layer: draw(*shape) for layer in range(1, depth + 1)}


def drawn(student: int, teacher: int, epoch: int, seed: int = 0) -> tuple[tuple[int, int], ...]:
    match = matching.Random()
    return match.drawn(match.layers(student, teacher), around(epoch, seed).moment)


# --- random -----------------------------------------------------------------------------------


def test_equally_deep_models_are_matched_layer_by_layer() -> None:
    for epoch in range(5):
        assert drawn(6, 6, epoch) == tuple((s, s) for s in range(1, 6))


def test_draws_are_sorted_without_repetition_and_below_the_final_block() -> None:
    seen = set()
    for epoch in range(200):
        pairs = drawn(4, 12, epoch)
        assert [s for s, _ in pairs] == [1, 2, 3]
        chosen = [t for _, t in pairs]
        assert chosen == sorted(set(chosen))
        assert chosen[0] >= 1
        assert chosen[-1] <= 11
        seen.add(tuple(chosen))
    assert {t for chosen in seen for t in chosen} == set(range(1, 12))


def test_a_draw_follows_from_seed_and_epoch_alone() -> None:
    first = [drawn(4, 12, epoch) for epoch in range(20)]
    assert first == [drawn(4, 12, epoch) for epoch in range(20)]
    assert len(set(first)) > 10
    assert first != [drawn(4, 12, epoch, seed=1) for epoch in range(20)]


@pytest.mark.parametrize("summed", [False, True])
def test_every_draw_is_in_the_map_that_decides_what_is_captured(summed: bool) -> None:
    match = matching.Random(summed=summed)
    layer_map = match.layers(4, 9)
    assert layer_map.problem(4, 9) is None
    for epoch in range(50):
        assert set(match.drawn(layer_map, around(epoch).moment)) <= set(layer_map.pairs)


def test_summed_layers_are_a_projection_of_all_layers_side_by_side() -> None:
    match = matching.Random(summed=True)
    layer_map, context = match.layers(4, 7), around(3)
    student, blocks = layers(3, 5, 6), {s: draw(6, 8) for s in range(1, 4)}
    teacher = layers(6, 5, 8)
    projected = {s: student[s] @ blocks[s] for s in student}
    (pair,) = match.pair(layer_map, projected, teacher, context)
    beside = torch.cat([student[s] for s in sorted(student)], dim=-1)
    stacked = torch.cat([blocks[s] for s in sorted(blocks)])
    torch.testing.assert_close(pair.student, beside @ stacked)
    torch.testing.assert_close(
        pair.teacher, sum(teacher[t] for _, t in match.drawn(layer_map, context.moment))
    )


def test_a_student_of_one_layer_has_no_inner_layer_to_draw_for() -> None:
    term = Term(
        "rail", extract.hidden, objectives.MSE(), reduction.mean_feat_mean_tok, matching.Random()
    )
    with pytest.raises(UsageError, match="leaves no layer of a student with 1"):
        bind(term, TEACHER.reshaped(layers=1), TEACHER)


# --- attn_weighted ----------------------------------------------------------------------------


def test_a_mixture_of_teacher_layers_agrees_with_its_slow_twin() -> None:
    match = matching.AttnWeighted()
    student, teacher = layers(2, 4, 3), layers(5, 4, 3)
    for pair, s in zip(
        match.pair(match.layers(2, 5), student, teacher, around()), (1, 2), strict=True
    ):
        assert pair.student is student[s]
        for row in range(4):
            own = [teacher[t][row].numpy() for t in range(1, 6)]
            twin = twins.attention_mixture(student[s][row].numpy(), own)
            np.testing.assert_allclose(pair.teacher[row].numpy(), twin, rtol=1e-12)


def test_one_teacher_layer_leaves_the_distance_to_it() -> None:
    match = matching.AttnWeighted()
    student, teacher = layers(2, 4, 3), layers(1, 4, 3)
    for pair in match.pair(match.layers(2, 1), student, teacher, around()):
        assert torch.equal(pair.teacher, teacher[1])


@pytest.mark.parametrize("attn_grad", [True, False])
def test_gradients_flow_through_the_weights_only_when_asked(attn_grad: bool) -> None:
    match = matching.AttnWeighted(attn_grad=attn_grad)
    layer_map, teacher = match.layers(1, 3), layers(3, 4, 3)

    def value(state: Tensor) -> Tensor:
        (pair,) = match.pair(layer_map, {1: state}, teacher, around())
        return (pair.student - pair.teacher).square().sum()

    state = draw(4, 3).requires_grad_(True)
    value(state).backward()
    (pair,) = match.pair(layer_map, {1: state.detach()}, teacher, around())
    direct = 2 * (pair.student - pair.teacher)
    assert state.grad is not None
    assert torch.allclose(state.grad, direct) is not attn_grad
    if attn_grad:
        assert torch.autograd.gradcheck(value, (draw(4, 3).requires_grad_(True),))


def test_buckets_cut_the_teacher_into_runs() -> None:
    separate = matching.AttnWeighted(buckets="separate").layers(3, 6)
    assert separate == LayerMap(((1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)))
    overlapping = matching.AttnWeighted(buckets="overlapping").layers(3, 6)
    assert [t for s, t in overlapping if s == 1] == [1, 2, 3]
    assert [t for s, t in overlapping if s == 2] == [2, 3, 4, 5]
    assert [t for s, t in overlapping if s == 3] == [4, 5, 6]


@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (2, 5), (3, 4), (5, 12)])
def test_separate_buckets_are_a_partition(student: int, teacher: int) -> None:
    pairs = matching.AttnWeighted(buckets="separate").layers(student, teacher).pairs
    assert [t for _, t in pairs] == list(range(1, teacher + 1))
    assert {s for s, _ in pairs} == set(range(1, student + 1))


def test_the_entropy_of_the_weights_says_how_far_they_are_saturated() -> None:
    match = matching.AttnWeighted()
    state, others = torch.ones(1, 2).double(), [torch.ones(1, 2).double() for _ in range(4)]
    even = match.entropy(match.weights(state, others))
    torch.testing.assert_close(even, torch.tensor([4.0]).double().log())
    others[2] = others[2] * 1000
    assert match.entropy(match.weights(state, others)).item() == 0


# --- emd --------------------------------------------------------------------------------------


def cost_of(flow: list[list[float]], costs: list[list[float]]) -> float:
    return sum(
        f * c for fs, cs in zip(flow, costs, strict=True) for f, c in zip(fs, cs, strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_flow_is_the_cheapest_and_moves_all_mass(
    rows: int, columns: int, dice: random.Random
) -> None:
    supply = [dice.random() + 0.01 for _ in range(rows)]
    demand = [dice.random() + 0.01 for _ in range(columns)]
    supply = [s / sum(supply) for s in supply]
    demand = [d / sum(demand) for d in demand]
    # Equal costs on purpose: ties are where a solver goes wrong.
    costs = [[dice.choice([0.0, 0.5, dice.random()]) for _ in demand] for _ in supply]
    flow = transport(supply, demand, costs)
    np.testing.assert_allclose([sum(row) for row in flow], supply, atol=1e-10)
    np.testing.assert_allclose([sum(c) for c in zip(*flow, strict=True)], demand, atol=1e-10)
    assert min(min(row) for row in flow) >= 0
    twin = twins.cheapest_transport(supply, demand, costs)
    assert cost_of(flow, costs) == pytest.approx(twin, abs=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(4, 12), (6, 6), (12, 24)])
def test_the_flow_of_real_depths_is_that_of_a_linear_programme(rows: int, columns: int) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is no dependency of ours")
    dice = random.Random(rows * columns)
    costs = [[dice.random() for _ in range(columns)] for _ in range(rows)]
    supply, demand = [1 / rows] * rows, [1 / columns] * columns
    system = np.zeros((rows + columns, rows * columns))
    for i, j in itertools.product(range(rows), range(columns)):
        system[i, i * columns + j] = system[rows + j, i * columns + j] = 1
    best = optimize.linprog(np.ravel(costs), A_eq=system, b_eq=[*supply, *demand])
    found = cost_of(transport(supply, demand, costs), costs)
    assert found == pytest.approx(best.fun, abs=1e-9)


def combined(match: matching.Emd, costs: list[list[float]], weights: LayerWeights) -> Tensor:
    layer_map = match.layers(len(costs), len(costs[0]))
    rows = [torch.tensor([c, 2 * c], dtype=torch.float64) for line in costs for c in line]
    return match.combine(layer_map, rows, weights, AROUND)


def test_one_layer_on_each_side_leaves_the_distance_itself() -> None:
    match = matching.Emd()
    weights = match.module(match.layers(1, 1))
    rows = draw(5).abs()
    assert torch.equal(match.combine(match.layers(1, 1), [rows], weights, AROUND), rows)


def test_equal_models_need_no_transport() -> None:
    match = matching.Emd()
    costs = [[0.0 if i == j else 1.0 + i + j for j in range(3)] for i in range(3)]
    weights = match.module(match.layers(3, 3))
    assert combined(match, costs, weights).abs().max() == 0
    weights.observe(0.0)
    assert torch.equal(weights.student, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_the_flow_is_a_constant_for_the_gradient() -> None:
    match = matching.Emd()
    layer_map = match.layers(2, 2)
    rows = [
        torch.tensor([c], dtype=torch.float64, requires_grad=True) for c in (1.0, 5.0, 4.0, 2.0)
    ]
    match.combine(layer_map, rows, match.module(layer_map), AROUND).sum().backward()
    assert [row.grad.item() for row in rows if row.grad is not None] == [0.5, 0.0, 0.0, 0.5]


def test_layer_weights_change_after_the_step_and_as_in_the_paper() -> None:
    match = matching.Emd()
    costs = [[1.0, 2.0, 4.0], [3.0, 1.5, 2.5]]
    weights = match.module(match.layers(2, 3))
    before = weights.student.clone()
    combined(match, costs, weights)
    assert torch.equal(weights.student, before)
    totals = [[3 * c for c in line] for line in costs]
    flow = transport([1 / 2] * 2, [1 / 3] * 3, totals)
    work = np.array(flow) * np.array(totals)
    weights.observe(1.0)
    expected = twins.layer_weights([1 / 2] * 2, work.sum(1))
    np.testing.assert_allclose(weights.student.numpy(), expected, rtol=1e-10)
    expected = twins.layer_weights([1 / 3] * 3, work.sum(0))
    np.testing.assert_allclose(weights.teacher.numpy(), expected, rtol=1e-10)
    assert set(weights.state_dict()) == {"student", "teacher"}
    after = weights.student.clone()
    weights.observe(1.0)
    assert torch.equal(weights.student, after)


def test_layer_weights_stay_even_when_they_are_not_learned() -> None:
    match = matching.Emd(learn=False)
    weights = match.module(match.layers(2, 2))
    combined(match, [[1.0, 2.0], [3.0, 9.0]], weights)
    weights.observe(1.0)
    assert weights.student.tolist() == [0.5, 0.5]


def test_a_layer_matched_for_nothing_does_not_take_all_the_weight_to_infinity() -> None:
    match = matching.Emd()
    weights = match.module(match.layers(2, 2))
    for _ in range(20):
        assert combined(match, [[0.0, 2.0], [3.0, 1.0]], weights).isfinite().all()
        weights.observe(1.0)
    assert weights.student.isfinite().all()
    assert weights.student.sum().item() == pytest.approx(1)


def test_a_broken_distance_reaches_the_loss() -> None:
    match = matching.Emd()
    weights = match.module(match.layers(2, 2))
    assert combined(match, [[1.0, float("nan")], [1.0, 1.0]], weights).isnan().all()
    weights.observe(float("nan"))
    assert weights.student.tolist() == [0.5, 0.5]


# --- dynamic_argmin ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_nearest_layers_in_order_are_the_best_of_all_choices(
    rows: int, columns: int, dice: random.Random
) -> None:
    costs = [[dice.random() for _ in range(columns)] for _ in range(rows)]
    found = monotone_assignment(costs)
    strict = rows <= columns
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(step >= (1 if strict else 0) for step in steps)
    total = sum(row[c] for row, c in zip(costs, found, strict=True))
    assert total == pytest.approx(twins.nearest_in_order(costs, strict))


def test_only_the_chosen_pairs_are_in_the_loss() -> None:
    match = matching.DynamicArgmin((2, 4))
    layer_map = match.layers(3, 4)
    # Student layers 2 and 3 are the nearest ones to teacher layers 2 and 4.
    costs = {(2, 2): 0.1, (3, 4): 0.2}
    rows = [draw(4).abs() + 1 for _ in layer_map]
    for index, pair in enumerate(layer_map):
        if pair in costs:
            rows[index] = torch.full((4,), costs[pair]).double()
    value = match.combine(layer_map, rows, None, AROUND)
    torch.testing.assert_close(value, torch.full((4,), 0.1 + 0.2).double())


def assigned(costs: list[list[float]], standing: frozenset[int] | None) -> float:
    """The value over pairs of student and teacher layers that cost this much; teacher 2 and 4."""
    match = matching.DynamicArgmin((2, 4))
    layer_map = match.layers(len(costs), 4)
    context = Context(mask_BN=torch.ones(4, 1, dtype=torch.long), standing=standing)
    student = {s: torch.full((1,), float(s)) for s in layer_map.student}
    teacher = {t: torch.full((1,), float(t)) for t in layer_map.teacher}
    pairs = list(match.pair(layer_map, student, teacher, context))
    assert {int(p.student) for p in pairs} == set(standing or layer_map.student)
    # Each pair's distance is that of the layers it really holds.
    rows = [
        torch.tensor([costs[int(p.student) - 1][(2, 4).index(p.teacher_layer)]]).double()
        for p in pairs
    ]
    return match.combine(layer_map, rows, None, context).item()


def test_layers_that_do_not_stand_are_never_the_nearest() -> None:
    costs = [[5.0, 5.0], [0.5, 9.0], [2.0, 3.0], [9.0, 0.25]]
    assert assigned(costs, None) == 0.5 + 0.25
    assert assigned(costs, frozenset({1, 3, 4})) == 2.0 + 0.25
    assert assigned(costs, frozenset({1, 2, 3})) == 0.5 + 3.0
    # In order, so block 4 may not stand for teacher layer 2 with block 3 for teacher layer 4.
    assert assigned([*costs[:3], [0.0, 9.0]], frozenset({3, 4})) == 2.0 + 9.0
    # Fewer than there are teacher layers: one is used again.
    assert assigned(costs, frozenset({3})) == 2.0 + 3.0


def test_quarter_points_are_the_default() -> None:
    assert matching.DynamicArgmin().layers(12, 12).teacher == (3, 6, 9, 12)
    assert matching.DynamicArgmin().layers(2, 2).teacher == (1, 2)


def test_teacher_layers_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="ascending order"):
        matching.DynamicArgmin((6, 3))


def test_a_teacher_layer_that_does_not_exist_is_refused() -> None:
    term = Term(
        "layers",
        extract.hidden,
        objectives.MSE(),
        reduction.mean_feat_mean_tok,
        matching.DynamicArgmin((3, 9)),
    )
    with pytest.raises(UsageError, match="teacher layer 9 does not exist: the teacher has 4"):
        bind(term, STUDENT, TEACHER)


# --- same, every_teacher_layer ----------------------------------------------------------------


def test_every_teacher_layer_stands_once() -> None:
    layer_map = matching.EveryTeacherLayer().layers(2, 4)
    assert layer_map.teacher == (1, 2, 3, 4)
    assert layer_map.student == (2,)


def test_unequal_depths_are_no_match_for_blocks_one_to_one() -> None:
    term = Term(
        "maps", extract.hidden, objectives.MSE(), reduction.mean_feat_mean_tok, matching.Same()
    )
    with pytest.raises(UsageError, match="one to one: the student has 2, the teacher 4") as refusal:
        bind(term, STUDENT, TEACHER)
    assert "give the student 4 layers" in str(refusal.value.hint)
