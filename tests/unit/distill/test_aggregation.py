"""Several teachers: the limits each way of weighing them must have, and what a policy learns.

Shape letters: K teachers, P rows of logits.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import STUDENT, TEACHER, Side, denominators_of, make_side
from toolchain.distill.aggregation import (
    Aggregation,
    BernoulliKeep,
    Correctness,
    EntropyRank,
    Mean,
    Policy,
    Said,
    Sum,
    reinforce,
)
from toolchain.distill.aggregation.entropy_rank import uncertainty
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.seen import Seen
from toolchain.distill.shapes import Unfit
from toolchain.distill.term import BoundTerm, bind
from toolchain.errors import UsageError
from toolchain.spec import ModelSpec


def terms_of(method: str, teachers: int, **options: object) -> tuple[BoundTerm, ...]:
    """Terms of the last stage, bound to as many equal teachers."""
    stages = compose(method, {method: options} if options else {}).stages
    return tuple(
        bind(term, STUDENT, TEACHER, k)
        for term in stages["pred"]
        for k in range(teachers)
        if k == 0 or not term.extract.is_gold
    )


def value(
    terms: tuple[BoundTerm, ...],
    aggregation: Aggregation | None,
    student: Side,
    teachers: list[Side],
    mask: Tensor,
    labels: Tensor,
    moment: Moment | None = None,
) -> dict[str, float]:
    """Each term's weighted value."""
    torch.manual_seed(0)
    distiller = Distiller(terms, aggregation=aggregation).double()
    context = Context(mask_BN=mask, labels_P=labels, moment=moment or Moment(step=1, steps=2))
    seen = Seen(student.captures(), tuple(t.captures() for t in teachers), context)
    values = distiller({"plain": seen}, denominators_of(terms, mask))
    weighted = distiller.weighted(values, context.moment)
    return {name: float(part.detach()) for name, part in weighted.items()}


def said(
    student: Side, teachers: list[Side], mask: Tensor, labels: Tensor, moment: Moment | None = None
) -> Said:
    from toolchain.distill.extract import Request

    context = Context(mask_BN=mask, labels_P=labels, moment=moment or Moment(step=1, steps=2))
    z = Request("logits")
    return Said(
        student=student.tensors[z],
        teachers=tuple(t.tensors[z] for t in teachers),
        context=context,
        knowledge=student.captures(),
    )


def many(rows: int, teachers: int, step: int = 1, steps: int = 2) -> Said:
    """What is said of random rows."""
    mask = torch.ones(rows, 5, dtype=torch.long)
    labels = torch.arange(rows) % 3
    sides = [make_side(TEACHER, rows, 5, seed=10 + k) for k in range(teachers)]
    student = make_side(STUDENT, rows, 5, seed=3)
    return said(student, sides, mask, labels, Moment(step=step, steps=steps, seed=7))


def sized(layers: int) -> ModelSpec:
    return TEACHER.reshaped(layers=layers)


@pytest.fixture
def student() -> Side:
    return make_side(STUDENT, 3, 7, seed=1)


@pytest.fixture
def pair() -> list[Side]:
    return [make_side(TEACHER, 3, 7, seed=s) for s in (2, 3)]


def test_several_teachers_without_a_method_for_them_are_averaged(student, pair, mask, labels):
    together = value(terms_of("kd", 2), Mean(), student, pair, mask, labels)
    alone = [value(terms_of("kd", 1), None, student, [t], mask, labels) for t in pair]
    mean = sum(one["kd/soft"] for one in alone) / 2
    assert together["kd/soft"] + together["kd/soft#2"] == pytest.approx(mean, rel=1e-12)
    assert together["kd/labels"] == pytest.approx(alone[0]["kd/labels"], rel=1e-12)


def test_a_sum_counts_every_teacher_fully(student, pair, mask, labels):
    together = value(terms_of("kd", 2), Sum(), student, pair, mask, labels)
    alone = [value(terms_of("kd", 1), None, student, [t], mask, labels) for t in pair]
    total = sum(one["kd/soft"] for one in alone)
    assert together["kd/soft"] + together["kd/soft#2"] == pytest.approx(total, rel=1e-12)


def test_dgkd_with_certain_survival_and_one_guide_is_kd(student, pair, mask, labels):
    dgkd = terms_of("dgkd", 1, survival=1.0, alpha=0.9)
    ours = value(dgkd, BernoulliKeep(1.0), student, pair[:1], mask, labels)
    theirs = value(terms_of("kd", 1), None, student, pair[:1], mask, labels)
    assert list(ours.values()) == list(theirs.values())


def test_dgkd_with_certain_survival_adds_up_all_guides(student, pair, mask, labels):
    terms = terms_of("dgkd", 2)
    kept = value(terms, BernoulliKeep(1.0), student, pair, mask, labels)
    assert kept == value(terms, Sum(), student, pair, mask, labels)


def test_guides_survive_as_often_as_they_should_and_resumed_steps_draw_the_same():
    kept = BernoulliKeep(0.75)
    steps = [kept.weights(many(4, 3, step, 4000), None) for step in range(2000)]
    drawn = torch.stack([weights[:, 0] for weights in steps])
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    # Three standard deviations of the mean of 2000 coins.
    assert (drawn.mean(0) - 0.75).abs().max() < 3 * (0.75 * 0.25 / 2000) ** 0.5
    assert all(torch.equal(w, w[:, :1].expand_as(w)) for w in steps)
    assert torch.equal(kept.weights(many(4, 3, 11, 4000), None), steps[11])
    # Coins of different guides are independent: all four pairs of outcomes occur.
    assert len({tuple(row) for row in drawn[:, :2].tolist()}) == 4


def test_a_single_guide_is_never_dropped():
    assert all(BernoulliKeep(0.1).weights(many(4, 1, s), None).min() == 1 for s in range(2))


def test_mt_bert_with_equal_teachers_that_are_right_is_the_sum_of_kd(student, mask, labels):
    from toolchain.distill.extract import Request

    right = make_side(TEACHER, 3, 7, seed=2)
    right.tensors[Request("logits")] = 60.0 * torch.nn.functional.one_hot(labels, 3).double()
    terms = terms_of("mt_bert", 2)
    ours = value(terms, Correctness(), student, [right, right], mask, labels)
    alone = value(terms_of("mt_bert", 1), None, student, [right], mask, labels)
    both = ours["mt_bert/soft"] + ours["mt_bert/soft#2"]
    assert both == pytest.approx(2 * alone["mt_bert/soft"], rel=1e-12)


def test_a_teacher_counts_by_its_loss_on_the_label(student, pair, mask, labels):
    from toolchain.distill.extract import Request

    weights = Correctness().weights(said(student, pair, mask, labels), None)
    for k, teacher in enumerate(pair):
        p = teacher.tensors[Request("logits")].softmax(-1)
        ce = -p[torch.arange(3), labels].log()
        torch.testing.assert_close(weights[k], 1 / (1 + ce))


def test_hidden_states_are_matched_to_every_teacher_whatever_it_counts(student, pair, mask, labels):
    terms = tuple(t for t in terms_of("mt_bert", 2) if "hidden" in t.name)
    weighed = value(terms, Correctness(), student, pair, mask, labels)
    assert weighed == value(terms, Sum(), student, pair, mask, labels)
    assert len({name for name in weighed}) == 2


def test_each_teacher_has_a_projection_of_its_own():
    narrow = TEACHER.reshaped(layers=2, width=12)
    wide = [TEACHER, TEACHER.reshaped(layers=6, width=48)]
    hidden = next(t for t in compose("mt_bert", {}).stages["pred"] if t.name.endswith("hidden"))
    distiller = Distiller(tuple(bind(hidden, narrow, spec, k) for k, spec in enumerate(wide)))
    shapes = sorted(tuple(p.shape) for p in distiller.parameters())
    assert shapes == [(12, 24), (12, 48)]


@pytest.mark.parametrize("teachers", [1, 2, 3, 4])
def test_hard_buckets_are_a_partition_of_the_batch(teachers):
    rows = many(13, teachers)
    weights = EntropyRank("hard", tuple(range(teachers))).weights(rows, None)
    assert torch.equal(weights.sum(0), torch.ones(13, dtype=weights.dtype))
    assert set(weights.flatten().tolist()) <= {0.0, 1.0}
    sizes = weights.sum(1)
    assert sizes.max() - sizes.min() <= 1
    u = uncertainty(rows.student)
    # Everything a smaller teacher gets is less certain than everything a larger one gets.
    for small in range(teachers - 1):
        assert u[weights[small] == 1].min() >= u[weights[small + 1] == 1].max()


@pytest.mark.parametrize("teachers", [1, 2, 3, 5])
def test_soft_weights_sum_to_the_number_of_teachers(teachers):
    weights = EntropyRank("soft", tuple(range(teachers))).weights(many(9, teachers), None)
    torch.testing.assert_close(weights.sum(0), torch.full((9,), float(teachers)).double())
    assert weights.min() >= 0


def test_soft_weights_of_two_teachers_are_those_of_the_paper_twice():
    rows = many(9, 2)
    small, large = EntropyRank("soft", (0, 1)).weights(rows, None)
    u = uncertainty(rows.student)
    torch.testing.assert_close(small, 2 * u)
    torch.testing.assert_close(large, 2 * (1 - u))


def test_uncertainty_is_0_for_a_certain_student_and_1_for_one_that_guesses():
    z = torch.tensor([[50.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).double()
    torch.testing.assert_close(uncertainty(z), torch.tensor([0.0, 1.0]).double())


def test_teachers_are_ordered_by_their_size_not_by_their_place():
    fixed = EntropyRank("hard").resolve(STUDENT, [sized(6), sized(2), sized(4)])
    assert fixed.order == (1, 2, 0)
    rows = many(9, 3)
    plain = EntropyRank("hard", (0, 1, 2)).weights(rows, None)
    assert torch.equal(fixed.weights(rows, None)[[1, 2, 0]], plain)


def test_a_regression_has_no_entropy_to_rank_by():
    score = dataclasses.replace(STUDENT, task="regress", num_labels=1)
    with pytest.raises(Unfit, match="no entropy"):
        EntropyRank().resolve(score, [score, score])


def test_a_survival_that_is_no_probability_is_refused():
    with pytest.raises(UsageError, match=r"survival is 1\.5"):
        compose("dgkd", {"dgkd": {"survival": 1.5}})


def policy(**settings: object) -> Policy:
    return Policy(warmup=0.0, **settings).resolve(STUDENT, [TEACHER, TEACHER])  # type: ignore[arg-type]


def test_a_policy_that_keeps_everyone_is_the_mean():
    rows, kept = many(6, 2), policy()
    module = kept.module().double()
    with torch.no_grad():
        module.bias.fill_(50.0)
    torch.testing.assert_close(kept.weights(rows, module), Mean().weights(rows, None))


def test_until_its_warm_up_ends_a_policy_averages_and_learns_nothing():
    kept = dataclasses.replace(policy(), warmup=0.5)
    rows = many(6, 2, step=4, steps=10)
    module = kept.module().double()
    torch.testing.assert_close(kept.weights(rows, module), Mean().weights(rows, None))
    assert kept.lesson(rows, rows.student, module).loss_P is None
    later = many(6, 2, step=5, steps=10)
    assert kept.lesson(later, later.student, module).loss_P is not None


def test_kept_teachers_share_a_row_equally_and_a_row_without_any_has_no_soft_loss():
    kept, rows = policy(), many(200, 2)
    weights = kept.weights(rows, kept.module().double())
    assert set(map(tuple, weights.T.tolist())) == {(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)}


def test_rewards_are_taken_from_the_updated_student_row_by_row():
    kept, rows = policy(), many(6, 2)
    after = rows.student + torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    gain = kept.lesson(rows, after, kept.module().double()).reward_P
    torch.testing.assert_close(gain, rows.gold_loss(rows.student) - rows.gold_loss(after))


def test_the_second_kind_of_reward_also_counts_the_disagreement_with_kept_teachers():
    from toolchain.distill.objectives import KL

    kept, rows = policy(reward="labels_and_teachers", tau=2.0), many(40, 2)
    module = kept.module().double()
    plain = policy().lesson(rows, rows.student, module).reward_P
    more = kept.lesson(rows, rows.student, module).reward_P
    each = torch.stack([KL(2.0)(rows.student, z, rows.context) for z in rows.teachers])
    actions = kept.actions(rows, kept.scores(rows, module))
    counted = torch.where(actions.sum(0) > 0, actions, torch.ones_like(actions))
    expected = (each * counted).sum(0) / counted.sum(0)
    torch.testing.assert_close(plain - more, expected)
    assert (expected > 0).all()


def test_the_estimators_mean_is_the_exact_gradient_and_that_of_probabilities_is_not():
    """One coin, pi = 0.574, rewards 2 and -1 (methods.md section 8, 11)."""
    pi, rewards = 0.574, {1: 2.0, 0: -1.0}
    score = torch.tensor([0.574 / 0.426]).double().log().requires_grad_(True)

    def mean_gradient(loss_of_action) -> float:
        total = 0.0
        for action, reward in rewards.items():
            loss = loss_of_action(torch.tensor([float(action)]).double(), reward)
            (gradient,) = torch.autograd.grad(loss.sum(), score)
            total += (pi if action else 1 - pi) * -float(gradient)
        return total

    (exact,) = torch.autograd.grad(
        score.sigmoid() * rewards[1] + (1 - score.sigmoid()) * rewards[0], score
    )
    assert float(exact) == pytest.approx(0.7336, abs=1e-4)
    ours = mean_gradient(lambda a, r: reinforce(score, a, torch.tensor([r]).double()))
    assert ours == pytest.approx(float(exact), rel=1e-9)
    based = mean_gradient(lambda a, r: reinforce(score, a, torch.tensor([r - 0.4]).double()))
    assert based == pytest.approx(float(exact), rel=1e-9)

    def of_probability(action: Tensor, reward: float) -> Tensor:
        return -reward * (action * score.sigmoid() + (1 - action) * (1 - score.sigmoid()))

    assert mean_gradient(of_probability) == pytest.approx(0.385, abs=1e-3)


def test_a_policy_learns_to_keep_the_teacher_that_is_rewarded():
    """The reward of every row is whether teacher 1 was kept and teacher 2 was not."""
    kept = policy()
    module = kept.module().double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for step in range(150):
        rows = many(32, 2, step=step, steps=400)
        actions = kept.actions(rows, kept.scores(rows, module))
        # An update that makes the loss on labels fall by the reward.
        reward = actions[0] - actions[1]
        scores = kept.scores(rows, module)
        loss = reinforce(scores, actions, reward - module.baseline.to(reward)).sum(0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.observe(float(reward.mean()))
    rows = many(64, 2, step=399, steps=400)
    first, second = kept.scores(rows, module).sigmoid().mean(1).tolist()
    assert first > 0.8
    assert second < 0.2


def test_the_running_baseline_is_the_mean_at_first_and_follows_later():
    module = policy().module()
    for reward in (1.0, 2.0, 3.0):
        module.observe(reward)
    assert float(module.baseline) == pytest.approx(2.0)
    for _ in range(200):
        module.observe(-1.0)
    assert float(module.baseline) == pytest.approx(-1.0, abs=1e-3)


@pytest.mark.parametrize(
    "weigh",
    [Mean(), Sum(), Correctness(), EntropyRank("hard", (0, 1)), EntropyRank("soft", (0, 1)),
     BernoulliKeep(), policy()],
    ids=lambda a: a.key,
)  # fmt: skip
def test_weights_carry_no_gradient_into_the_student(weigh: Aggregation, mask, labels):
    student = make_side(STUDENT, 3, 7, seed=1, grad=True)
    pair = [make_side(TEACHER, 3, 7, seed=s, grad=True) for s in (2, 3)]
    terms = terms_of("kd", 2)
    distiller = Distiller(terms, aggregation=weigh).double()
    context = Context(mask_BN=mask, labels_P=labels, moment=Moment(step=1, steps=2))
    seen = Seen(student.captures(), tuple(t.captures() for t in pair), context)
    distiller({"plain": seen}, denominators_of(terms, mask))
    weights = distiller._weights(seen)
    assert weights is not None
    assert weights.shape == (2, 3)
    assert not weights.requires_grad
    lesson = distiller.lesson(seen, student.tensors[next(iter(student.tensors))])
    if lesson and lesson.loss_P is not None:
        lesson.loss_P.sum().backward()
        assert all(t.grad is None for side in (student, *pair) for t in side.tensors.values())
        assert all(p.grad is not None for p in distiller.parameters())


def test_rows_of_tokens_are_weighed_one_by_one_and_sequences_by_their_mean():
    mask = torch.ones(2, 4, dtype=torch.long)
    sample = torch.tensor([0, 0, 0, 1])
    context = Context(mask_BN=mask, sample_P=sample, labels_P=torch.zeros(4, dtype=torch.long))
    terms = tuple(t for t in terms_of("mt_bert", 1) if "hidden" in t.name)
    plain = dataclasses.replace(
        terms[0], term=dataclasses.replace(terms[0].term, every_teacher=False)
    )
    weights = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
    rows = torch.tensor([1.0, 1.0])
    weighed = Distiller((plain,))._weighed(plain, rows, weights, context)
    torch.testing.assert_close(weighed, torch.tensor([2.0, 10.0]))
