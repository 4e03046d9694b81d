"""Methods on hidden states: closed forms, what trains what, refusals, and that each one learns."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.distill import twins
from tests.unit.distill.conftest import (
    STUDENT,
    TEACHER,
    Side,
    bound_terms,
    loss_of,
    make_side,
)
from tests.unit.distill.lab import RUN as SHORT
from tests.unit.distill.lab import Killed, StopAt, rows_of
from toolchain.data.batching import Rows
from toolchain.distill import objectives, transforms
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.records import Parts, StageRun, Trained
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import BoundTerm, bind
from toolchain.distill.trainer import train
from toolchain.errors import UsageError
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_classifier
from toolchain.progress import Null

g = torch.Generator().manual_seed(11)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def around(mask: Tensor) -> Context:
    return Context(mask_BN=mask)


def at(progress: float) -> Moment:
    return Moment(step=round(progress * 1000), steps=1000)


# --- objectives -------------------------------------------------------------------------------


def test_cos_and_huber_agree_with_their_slow_twins(mask: Tensor) -> None:
    student, teacher = draw(4, 5), draw(4, 5)
    ours = objectives.Cos()(student, teacher, around(mask))
    twin = [1 - twins.cosine(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(ours.numpy(), twin, rtol=1e-12)
    ours = objectives.Huber()(3 * student, teacher, around(mask))
    twin = np.vectorize(twins.huber)((3 * student - teacher).numpy())
    np.testing.assert_allclose(ours.numpy(), twin, rtol=1e-12)


def test_cos_is_half_the_squared_distance_of_unit_vectors(mask: Tensor) -> None:
    student, teacher = draw(4, 5), draw(4, 5)
    norm = transforms.L2Norm()
    s, t = (norm(x, around(mask), None) for x in (student, teacher))
    half = (s - t).square().sum(-1) / 2
    torch.testing.assert_close(objectives.Cos()(student, teacher, around(mask)), half)


def test_cosnce_agrees_with_its_slow_twin_on_common_tokens(mask: Tensor) -> None:
    student, teacher = draw(3, 7, 5), draw(3, 7, 5)
    ours = objectives.CosNCE()(student, teacher, around(mask))
    twin = twins.cosnce(student.numpy(), teacher.numpy(), mask.numpy())
    np.testing.assert_allclose(ours.numpy(), twin, rtol=1e-12)


def test_an_anchors_value_is_one_plus_its_own_distance_less_half_the_others(mask: Tensor) -> None:
    student, teacher = draw(3, 7, 5), draw(3, 7, 5)
    distance = objectives.CosNCE.distances(student, teacher, around(mask))
    own = distance.diagonal()
    others = (distance.sum(1) - own) / 2
    ours = objectives.CosNCE()(student, teacher, around(mask))
    torch.testing.assert_close(ours, 1 + 1.5 * own - 0.5 * others)


def test_equal_models_with_orthonormal_samples_give_a_half() -> None:
    states = torch.eye(6, dtype=torch.float64)
    ones = torch.ones(6, 1, dtype=torch.long)
    for values in (states, states.unsqueeze(1)):
        value = objectives.CosNCE()(values, values, around(ones))
        torch.testing.assert_close(value, torch.full((6,), 0.5).double())


def test_a_row_without_negatives_is_compared_with_its_own_teacher() -> None:
    state, ones = draw(1, 4, 5), torch.ones(1, 4, dtype=torch.long)
    value = objectives.CosNCE()(state, draw(1, 4, 5), around(ones))
    assert value.isfinite().all()
    assert objectives.CosNCE()(state, state, around(ones)).abs().max() < 1e-12


def test_the_contrast_never_holds_a_tensor_of_rows_by_rows_by_tokens() -> None:
    B, N, F = 24, 16, 8
    student, mask = draw(B, N, F).requires_grad_(True), torch.ones(B, N, dtype=torch.long)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objectives.CosNCE()(student, draw(B, N, F), around(mask)).sum().backward()
    assert max(kept) <= max(B * N * F, B * B)
    assert max(kept) < B * B * N


@pytest.mark.parametrize(
    "objective", [objectives.Cos(), objectives.Huber(0.7), objectives.CosNCE()], ids=repr
)
def test_gradients_are_those_of_finite_differences(objective: objectives.Objective) -> None:
    ones = torch.ones(3, 2, dtype=torch.long)
    ones[1, 1] = 0
    student, teacher = draw(3, 2, 5).requires_grad_(True), draw(3, 2, 5)
    assert torch.autograd.gradcheck(lambda s: objective(s, teacher, around(ones)), (student,))


def test_half_precision_states_are_compared_in_float32() -> None:
    student, teacher = draw(3, 2, 8).bfloat16(), draw(3, 2, 8).bfloat16()
    context = around(torch.ones(3, 2, dtype=torch.long))
    for objective in (objectives.Cos(), objectives.Huber(), objectives.CosNCE()):
        value = objective(student, teacher, context)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, objective(student.float(), teacher.float(), context))


# --- heads ------------------------------------------------------------------------------------

CLS = Shape(positions="cls", features=5, answers=3)


def test_a_pseudo_head_gives_the_rows_of_the_models_own_logits(mask: Tensor) -> None:
    head = transforms.PseudoHead().resolve(CLS, CLS)
    module = head.module(CLS)
    assert module is not None
    states = draw(3, 5).float()
    assert head(states, around(mask), module).shape == (3, 3)
    assert head.shape(CLS).positions == "logits"
    many = dataclasses.replace(CLS, independent=True)
    head = transforms.PseudoHead().resolve(many, many)
    rows = head(states, around(mask), module)
    assert rows.shape == (9, 2)
    assert rows[:, 0].abs().max() == 0
    torch.testing.assert_close(rows[:, 1], module(states).flatten())
    assert head.shape(many).features == 2


@pytest.mark.parametrize(
    ("student", "teacher", "problem"),
    [
        (dataclasses.replace(CLS, answers=None), CLS, "answers per token"),
        (dataclasses.replace(CLS, positions="tok"), CLS, "one vector per sequence"),
        (dataclasses.replace(CLS, answers=4), CLS, "the student has 4, the teacher 3"),
    ],
)
def test_a_pseudo_head_refuses_what_it_cannot_answer(
    student: Shape, teacher: Shape, problem: str
) -> None:
    with pytest.raises(Unfit, match=problem):
        transforms.PseudoHead().resolve(student, teacher)


@pytest.mark.parametrize("task", ["classify", "multi_label", "regress"])
def test_heads_are_grounded_for_every_task_with_one_answer_per_sequence(task: str) -> None:
    spec = dataclasses.replace(TEACHER, task=task)
    terms = bound_terms("universal_kd", spec.reshaped(layers=2), spec)["pred"]
    (heads,) = (b for b in terms if b.term.name == "universal_kd/heads")
    student, teacher = make_side(spec, 3, 7, seed=1), make_side(spec, 3, 7, seed=2)
    labels = {
        "classify": torch.tensor([0, 2, 1]),
        "multi_label": torch.tensor([0, 1, 1, 0, 0, 1, 1, 1, 0]),
        "regress": torch.tensor([0.5, 2.0, 1.0]),
    }[task]
    # The rows of multi-label logits are (sequence, class).
    sample = torch.arange(3).repeat_interleave(3) if task == "multi_label" else None
    context = Context(mask_BN=torch.ones(3, 7, dtype=torch.long), labels_P=labels, sample_P=sample)
    from toolchain.distill.seen import Seen

    seen = {"plain": Seen(student.captures(), (teacher.captures(),), context)}
    count = heads.term.reduction.denominator(context)
    value = Distiller((heads,)).double()(seen, {heads.name: count})[heads.name]
    assert value.isfinite()
    value.backward()


# --- closed forms of methods ------------------------------------------------------------------


def test_the_value_relation_of_minilm_is_that_of_minilm_v2_with_the_models_heads(
    mask: Tensor, labels: Tensor
) -> None:
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    old = loss_of(bound_terms("minilm")["inter"], student, teacher, mask, labels)
    stages = compose("minilm_v2", {"minilm_v2": {"relation_heads": TEACHER.heads}}).stages
    terms = tuple(bind(term, STUDENT, TEACHER) for term in stages["inter"])
    new = loss_of(terms, student, teacher, mask, labels)
    torch.testing.assert_close(old.parts["minilm/values"], new.parts["minilm_v2/vv"])


def test_minilm_agrees_with_slow_twins(mask: Tensor, labels: Tensor) -> None:
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    loss = loss_of(bound_terms("minilm")["inter"], student, teacher, mask, labels)
    maps = [
        twins.relation(side.tensors[Request("v", layer)].numpy(), TEACHER.heads)
        for side, layer in ((student, 2), (teacher, 4))
    ]
    twin = twins.masked_mean_kl_of_maps(*maps, mask.numpy())
    assert loss.parts["minilm/values"].item() == pytest.approx(twin, rel=1e-9)


def test_emd_of_one_layer_each_is_tinyberts_distance(mask: Tensor, labels: Tensor) -> None:
    one = TEACHER.reshaped(layers=1)
    student, teacher = make_side(one, 3, 7, seed=1), make_side(one, 3, 7, seed=2)
    ours = loss_of(bound_terms("bert_emd", one, one)["pred"], student, teacher, mask, labels)
    other = loss_of(bound_terms("tinybert", one, one)["inter"], student, teacher, mask, labels)
    for name in ("hidden", "attention"):
        torch.testing.assert_close(ours.parts[f"bert_emd/{name}"], other.parts[f"tinybert/{name}"])


def test_attention_and_hidden_states_share_the_layer_weights_of_emd(
    mask: Tensor, labels: Tensor
) -> None:
    terms = bound_terms("bert_emd")["pred"]
    distiller = Distiller(terms).double()
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    loss_of(terms, student, teacher, mask, labels, distiller=distiller)
    (shared,) = (m for name, m in distiller.learned.items() if name.startswith("emd"))
    even = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    distiller.observe({bound.name: 1.0 for bound in terms})
    for name, tensor in shared.state_dict().items():
        assert not torch.equal(tensor, even[name])
        assert tensor.sum().item() == pytest.approx(1)


def test_alp_kd_with_one_teacher_layer_is_the_mean_square_to_it(
    mask: Tensor, labels: Tensor
) -> None:
    one = TEACHER.reshaped(layers=1)
    student, teacher = make_side(one, 3, 7, seed=1), make_side(one, 3, 7, seed=2)
    loss = loss_of(bound_terms("alp_kd", one, one)["pred"], student, teacher, mask, labels)
    first = [side.tensors[Request("hidden", 1)][:, 0] for side in (student, teacher)]
    torch.testing.assert_close(loss.parts["alp_kd/layers"], torch.nn.functional.mse_loss(*first))


def test_distilbert_averages_its_cosine_over_real_tokens(mask: Tensor, labels: Tensor) -> None:
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    loss = loss_of(bound_terms("distilbert")["pred"], student, teacher, mask, labels)
    s, t = student.tensors[Request("hidden", 2)], teacher.tensors[Request("hidden", 4)]
    rows = [1 - twins.cosine(s[b, n].numpy(), t[b, n].numpy()) for b, n in mask.nonzero().tolist()]
    assert loss.parts["distilbert/cos"].item() == pytest.approx(np.mean(rows))
    parts = {name: float(value) for name, value in loss.parts.items()}
    total = 5 * parts["distilbert/soft"] + 2 * parts["distilbert/labels"] + parts["distilbert/cos"]
    assert loss.total.item() == pytest.approx(total)


def test_rail_kd_compares_unit_vectors(mask: Tensor, labels: Tensor) -> None:
    terms = bound_terms("rail_kd")["pred"]
    distiller = Distiller(terms).double()
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    loss = loss_of(terms, student, teacher, mask, labels, distiller=distiller)
    (layers,) = (b for b in terms if b.term.name == "rail_kd/layers")
    ((s, t),) = layers.term.match.drawn(layers.layer_map, Moment(step=1, steps=2))  # type: ignore[attr-defined]

    def unit(side: Side, name: str, layer: int) -> Tensor:
        states, weights = side.tensors[Request("hidden", layer)], mask.double().unsqueeze(-1)
        module = distiller.learned[f"rail_kd_layers_1_{name}_{layer}"]
        mean = (states * weights).sum(1) / weights.sum(1)
        return transforms.L2Norm()(module(mean), around(mask), None)

    squared = (unit(student, "student", s) - unit(teacher, "teacher", t)).square().sum(-1).mean()
    torch.testing.assert_close(2 * loss.parts["rail_kd/layers"], squared)
    parts = loss.parts
    third = (squared + parts["rail_kd/soft"] + parts["rail_kd/labels"]) / 3
    torch.testing.assert_close(loss.total, third)


def test_lrc_berts_second_phase_weighs_one_to_one_to_three(mask: Tensor, labels: Tensor) -> None:
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    stages = bound_terms("lrc_bert")
    assert [b.term.name for b in stages["inter"]] == ["lrc_bert/contrast"]
    assert {b.term.view for b in stages["pred"]} == {"adv_embed"}
    loss = loss_of(stages["pred"], student, teacher, mask, labels)
    parts = {name.removeprefix("lrc_bert/"): value for name, value in loss.parts.items()}
    total = parts["contrast"] + parts["soft"] + 3 * parts["labels"]
    torch.testing.assert_close(loss.total, total)
    plain = compose("lrc_bert", {"lrc_bert": {"perturb": False}})
    assert not plain.operators
    assert {term.view for term in plain.stages["pred"]} == {"plain"}


# --- what trains what -------------------------------------------------------------------------


def layers_with_gradient(terms: tuple[BoundTerm, ...], progress: float, spec=STUDENT) -> set[int]:
    """Student layers whose hidden states get a gradient at this progress."""
    student = make_side(spec, 3, 7, seed=1, grad=True)
    mask, labels = torch.ones(3, 7, dtype=torch.long), torch.tensor([0, 1, 2])
    teacher = make_side(TEACHER, 3, 7, seed=2)
    loss = loss_of(terms, student, teacher, mask, labels, moment=at(progress))
    if loss.total.requires_grad:
        loss.total.backward()
    return {
        request.layer
        for request, tensor in student.tensors.items()
        if request.kind == "hidden" and tensor.grad is not None and tensor.grad.abs().max() > 0
    }


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("stacked", [{1}, {1, 2}, {1, 2, 3}, {1, 2, 3}]),
        ("progressive", [{1}, {2}, {3}, set()]),
    ],
)
def test_sid_unlocks_layers_in_order_and_the_predictions_last(
    how: str, expected: list[set[int]]
) -> None:
    spec = TEACHER.reshaped(layers=3)
    stages = compose("sid", {"sid": {"how": how, "unlocked": 0.6}}).stages
    terms = tuple(bind(term, spec, TEACHER) for term in stages["pred"])
    progresses = (0.0, 0.25, 0.5, 0.7)
    assert [layers_with_gradient(terms, p, spec) for p in progresses] == expected
    gates = [b.term.schedule for b in terms if b.term.name in ("sid/soft", "sid/labels")]
    assert [gate(0.59) for gate in gates] == [0, 0]
    assert [gate(0.6) for gate in gates] == [1, 1]


def test_mobilebert_trains_one_block_at_a_time_by_default() -> None:
    terms = bound_terms("mobilebert", TEACHER)["inter"]
    found = [layers_with_gradient(terms, p, TEACHER) for p in (0.0, 0.3, 0.6, 0.9)]
    assert found == [{1}, {2}, {3}, {4}]


def gradients(terms: tuple[BoundTerm, ...], progress: float = 0.5) -> dict[str, bool]:
    """Which learned parts get a gradient."""
    distiller = Distiller(terms).double()
    mask, labels = torch.ones(3, 7, dtype=torch.long), torch.tensor([0, 1, 2])
    sides = make_side(TEACHER, 3, 7, seed=1, grad=True), make_side(TEACHER, 3, 7, seed=2)
    loss_of(terms, *sides, mask, labels, distiller=distiller, moment=at(progress)).total.backward()
    return {name: p.grad is not None for name, p in distiller.named_parameters()}


def test_only_the_labels_train_the_teachers_pseudo_heads() -> None:
    terms = bound_terms("universal_kd")["pred"]
    by_name = {bound.term.name: bound for bound in terms}
    matched = gradients((by_name["universal_kd/layers"],))
    assert {name for name, found in matched.items() if found} == {
        f"learned.universal_kd_student_0_{layer}.{part}"
        for layer in (1, 2)
        for part in ("weight", "bias")
    }
    grounded = gradients((by_name["universal_kd/heads"],))
    assert {name.split(".")[1] for name, found in grounded.items() if found} == {
        f"universal_kd_teacher_0_{layer}" for layer in (1, 2, 3, 4)
    }


def test_layers_are_matched_only_after_the_heads_had_time_to_learn() -> None:
    terms = bound_terms("universal_kd")["pred"]
    assert layers_with_gradient(terms, 0.05) == set()
    assert layers_with_gradient(terms, 0.15) == {1, 2}


def test_filters_learn_on_frozen_models_and_the_teachers_then_rest() -> None:
    stages = bound_terms("ted")
    assert layers_with_gradient(stages["inter"], 0.5) == set()
    assert all(gradients(stages["inter"]).values())
    second = gradients(stages["pred"])
    assert {name for name, found in second.items() if not found} == {
        f"learned.ted_filter_teacher_0_{layer}.{part}"
        for layer in (2, 4)
        for part in ("weight", "bias")
    }


def test_a_later_stage_goes_on_from_named_projections_alone() -> None:
    torch.manual_seed(0)
    first = Distiller(bound_terms("ted", STUDENT.reshaped(layers=2))["inter"])
    second = Distiller(bound_terms("ted", STUDENT.reshaped(layers=2))["pred"])
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    second.adopt(first.state_dict())
    own, earlier = second.state_dict(), first.state_dict()
    assert own
    assert all(torch.equal(own[name], earlier[name]) for name in own)
    tinybert = Distiller(bound_terms("rail_kd")["pred"])
    before = {name: tensor.clone() for name, tensor in tinybert.state_dict().items()}
    tinybert.adopt({name: tensor + 1 for name, tensor in before.items()})
    assert all(torch.equal(tinybert.state_dict()[name], before[name]) for name in before)


# --- refusals ---------------------------------------------------------------------------------

NARROW = TEACHER.reshaped(layers=2, width=16)
FEW_HEADS = TEACHER.reshaped(layers=2, heads=1)


@pytest.mark.parametrize("name", ["pkd", "alp_kd", "distilbert", "sid"])
def test_other_widths_are_refused_with_the_way_out_and_a_projection_takes_them(name: str) -> None:
    with pytest.raises(UsageError, match="the student has 16, the teacher 24") as refusal:
        bound_terms(name, NARROW)
    assert "project: true" in str(refusal.value.hint)
    stages = compose(name, {name: {"project": True}}).stages
    student, teacher = make_side(NARROW, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    mask, labels = torch.ones(3, 7, dtype=torch.long), torch.tensor([0, 1, 2])
    if name == "pkd":
        assert "patient" in {t.name.split("/")[1] for t in stages["pred"]}
    terms = tuple(bind(term, NARROW, TEACHER) for term in stages["pred"])
    assert loss_of(terms, student, teacher, mask, labels).total.isfinite()


@pytest.mark.parametrize("name", ["lrc_bert", "universal_kd", "rail_kd", "bert_emd", "ted"])
def test_methods_with_projections_of_their_own_take_any_width(name: str) -> None:
    student, teacher = make_side(NARROW, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    mask, labels = torch.ones(3, 7, dtype=torch.long), torch.tensor([0, 1, 2])
    for terms in bound_terms(name, NARROW).values():
        assert loss_of(terms, student, teacher, mask, labels).total.isfinite()


@pytest.mark.parametrize("name", ["sid", "minilm", "bert_emd"])
def test_other_numbers_of_heads_are_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(UsageError, match="the student has 1 heads, the teacher 2") as refusal:
        bound_terms(name, FEW_HEADS)
    assert "minilm_v2" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (STUDENT, "one to one: the student has 2, the teacher 4"),
        (TEACHER.reshaped(width=16), "the student has 16, the teacher 24"),
        (TEACHER.reshaped(heads=1), "the student has 1 heads, the teacher 2"),
    ],
)
def test_mobilebert_refuses_what_its_blocks_cannot_be_compared_with(spec, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        bound_terms("mobilebert", spec)


@pytest.mark.parametrize("name", ["universal_kd", "ted"])
def test_heads_on_sequences_refuse_models_that_answer_per_token(name: str) -> None:
    spec = dataclasses.replace(TEACHER, task="tag")
    with pytest.raises(UsageError, match="answers per token"):
        bound_terms(name, spec.reshaped(layers=2), spec)


def test_gold_labels_need_logits() -> None:
    with pytest.raises(Unfit, match="the teacher's side has none"):
        objectives.HeadCrossEntropy("teacher").resolve(CLS, CLS)


def test_a_bend_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="delta is -1"):
        objectives.Huber(-1.0)


# --- on real models ---------------------------------------------------------------------------

RUN = dataclasses.replace(
    SHORT, steps=40, lr=2e-3, weight_decay=0.0, evals=1, keep_best=False, checkpoint_seconds=1e9
)


@dataclasses.dataclass
class Lab:
    """A tiny teacher, its task, and students cut out of it."""

    folder: Path
    rows: Rows

    def models(self, layers: int) -> tuple[TrainingModel, TrainingModel]:
        found = inspect(str(self.folder))
        teacher = load_classifier(self.folder)
        spec = found.spec.reshaped(layers=layers)
        student = build_student(teacher, found.family, spec, "random", seed=3)
        return (
            TrainingModel(model=student, family=found.family, spec=spec),
            TrainingModel(model=teacher, family=found.family, spec=found.spec),
        )

    def train(
        self,
        method: str,
        run: StageRun,
        work: Path,
        *,
        layers: int = 2,
        stop: int = 0,
        **options: object,
    ) -> tuple[Trained, dict[str, Tensor]]:
        student, teacher = self.models(layers)
        chosen = compose(method, {method: options} if options else {})
        terms = tuple(bind(t, student.spec, teacher.spec) for t in chosen.stages[run.name])  # type: ignore[index]
        surgery = chosen.surgery
        parts = Parts(
            operators=chosen.operators,
            surgery=surgery if surgery and run.name in surgery.stages else None,
        )
        progress = StopAt(stop) if stop else Null()
        done = train(student, [teacher], terms, parts, self.rows, self.rows, run, work, progress)
        return done, {k: v.clone() for k, v in student.model.state_dict().items()}


@pytest.fixture(scope="module")
def lab(teacher_folder: Path, task_folder: Path) -> Lab:
    return Lab(teacher_folder, rows_of(teacher_folder, task_folder, "train"))


LEARNERS = [
    ("distilbert", "general", "", (0, 5), (35, 40)),
    ("distilbert", "pred", "", (0, 5), (35, 40)),
    # Only when all layers are unlocked their sum can be followed.
    ("sid", "pred", "attention", (11, 15), (35, 40)),
    ("sid", "pred", "cls", (11, 15), (35, 40)),
    ("sid", "pred", "soft", (20, 24), (35, 40)),
    ("minilm", "inter", "", (0, 5), (35, 40)),
    ("alp_kd", "pred", "layers", (0, 5), (35, 40)),
    ("lrc_bert", "inter", "contrast", (0, 5), (35, 40)),
    ("lrc_bert", "pred", "", (0, 5), (35, 40)),
    ("universal_kd", "pred", "heads", (0, 5), (35, 40)),
    ("universal_kd", "pred", "labels", (0, 5), (35, 40)),
    ("rail_kd", "pred", "layers", (0, 5), (35, 40)),
    ("bert_emd", "pred", "hidden", (0, 5), (35, 40)),
    ("bert_emd", "pred", "attention", (0, 5), (35, 40)),
    ("ted", "inter", "", (0, 5), (35, 40)),
    ("ted", "pred", "", (0, 5), (35, 40)),
    # One block after another: the last one, from its first step on.
    ("mobilebert", "inter", "features", (30, 33), (37, 40)),
    ("mobilebert", "inter", "attention", (30, 33), (37, 40)),
    ("mobilebert", "pred", "", (0, 5), (35, 40)),
]


@pytest.fixture(scope="module")
def curves(lab: Lab, tmp_path_factory: pytest.TempPathFactory):
    runs: dict[tuple[str, str], Trained] = {}

    def of(method: str, stage: str) -> Trained:
        if (method, stage) not in runs:
            run = dataclasses.replace(RUN, name=stage)
            layers = 4 if method == "mobilebert" else 2
            work = tmp_path_factory.mktemp(f"{method}-{stage}")
            runs[method, stage], _ = lab.train(method, run, work, layers=layers)
        return runs[method, stage]

    return of


@pytest.mark.parametrize(
    ("method", "stage", "term", "first", "last"),
    LEARNERS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forty_steps_lower_its_own_loss(
    curves, method: str, stage: str, term: str, first: tuple[int, int], last: tuple[int, int]
) -> None:
    points = curves(method, stage).points
    assert len(points) == RUN.steps
    values = [p["parts"][f"{method}/{term}"] if term else p["loss"] for p in points]
    start, end = (float(np.mean(values[slice(*window)])) for window in (first, last))
    assert end < start


@pytest.mark.parametrize(
    ("method", "stage", "layers"),
    [("rail_kd", "pred", 3), ("bert_emd", "pred", 2), ("mobilebert", "inter", 4)],
)
@pytest.mark.parametrize("step", [9, 14])
def test_a_run_with_draws_and_weights_ends_as_if_it_had_not_been_cut(
    lab: Lab, tmp_path: Path, method: str, stage: str, layers: int, step: int
) -> None:
    # Eight steps are an epoch, so two of them are redrawn after the cut.
    run = dataclasses.replace(RUN, name=stage, steps=20, batch_size=64, checkpoint_seconds=0.0)
    whole, expected = lab.train(method, run, tmp_path / "whole", layers=layers)
    with pytest.raises(Killed):
        lab.train(method, run, tmp_path / "cut", layers=layers, stop=step)
    resumed, found = lab.train(method, run, tmp_path / "cut", layers=layers)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.points == whole.points


def test_filters_go_on_into_the_next_stage_and_leave_the_student_alone_in_their_own(
    lab: Lab, tmp_path: Path
) -> None:
    from toolchain.distill.checkpointing import tensors_of

    student, _ = lab.models(2)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    run = dataclasses.replace(RUN, name="inter", steps=6)
    _, after = lab.train("ted", run, tmp_path / "inter")
    assert all(torch.equal(after[name], before[name]) for name in before)
    checkpoint = tmp_path / "inter" / "checkpoint.safetensors"
    learned = tensors_of(checkpoint, "distiller")
    run = dataclasses.replace(RUN, steps=6, before=(checkpoint,))
    lab.train("ted", run, tmp_path / "pred")
    found = tensors_of(tmp_path / "pred" / "checkpoint.safetensors", "distiller")
    teacher = [name for name in found if "ted_filter_teacher" in name]
    assert len(teacher) == 4
    assert all(torch.equal(found[name], learned[name]) for name in teacher)
    changed = [name for name in found if "ted_filter_student" in name]
    assert not any(torch.equal(found[name], learned[name]) for name in changed)
    eye = torch.eye(32)
    assert not any(torch.equal(found[name], eye) for name in teacher if name.endswith("weight"))
