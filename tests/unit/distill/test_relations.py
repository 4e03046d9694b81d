"""Relations of tokens, spans, layers, sequences and features: twins, closed forms, invariances."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.distill import twins
from tests.unit.distill.conftest import STUDENT, TEACHER, bound_terms, loss_of, make_side
from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.context import Context
from toolchain.distill.objectives import Objective
from toolchain.distill.reduction import Reduction
from toolchain.distill.shapes import SPAN, Shape
from toolchain.distill.term import Term, bind
from toolchain.distill.transforms import Transform
from toolchain.distill.written import read_terms
from toolchain.errors import UsageError
from toolchain.recipe import WrittenTerm

B, N, S, T, LAYERS = 3, 7, 12, 20, 4
GUIDED = objectives.GuidedAngles(vertices=3, partners=4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def around(mask: Tensor, *, causal: bool = False) -> Context:
    guide = draw(mask.shape[0], 2, mask.shape[1], mask.shape[1], seed=9).softmax(-1)
    context = Context(mask_BN=mask, causal=causal, guide=guide)
    return dataclasses.replace(context, outcomes=None)


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain of transforms, an objective and a reduction on vectors (B, N, [L,] D)."""

    name: str
    objective: Objective
    reduction: Reduction
    chain: tuple[Transform, ...] = ()
    stacked: bool = False
    moves: tuple[str, ...] = ()
    """What may be done to one side without a change of value."""

    def value(self, student: Tensor, teacher: Tensor, context: Context) -> Tensor:
        layers = LAYERS if self.stacked else None
        s, t = (
            Shape(positions="tok", features=x.shape[-1], layers=layers) for x in (student, teacher)
        )
        if self.reduction.over == "query":
            context = dataclasses.replace(context, outcomes=context.keys_B1NN)
        for transform in self.chain:
            fixed = transform.resolve(s, t)
            s, t = fixed.shape(s), fixed.shape(t)
            student, teacher = (fixed(x, context, None) for x in (student, teacher))
        objective = self.objective.resolve(s, t)
        assert self.reduction.fits(objective.yields(s))
        values = objective(student, teacher, context)
        sums = self.reduction.numerators(values, context)
        assert sums.shape == (context.mask_BN.shape[0],)
        return sums.sum() / self.reduction.denominator(context)

    def sides(self) -> tuple[Tensor, Tensor]:
        shape = (B, N, LAYERS) if self.stacked else (B, N)
        return draw(*shape, S, seed=1), draw(*shape, T, seed=2)


EVERY = ("rotate", "shift", "scale")
POOL, SPLIT = transforms.Pool("mean"), transforms.SplitHeads(2)
CASES = [
    Case(
        "gram-token",
        objectives.MSE(),
        reduction.mean_pair,
        (transforms.Gram("token"),),
        moves=("rotate",),
    ),
    Case(
        "gram-token-heads", objectives.MSE(), reduction.mean_pair, (SPLIT, transforms.Gram("token"))
    ),
    Case(
        "gram-steps",
        objectives.MSE(),
        reduction.mean_pair,
        (transforms.Gram("token"),),
        True,
        ("rotate",),
    ),
    Case(
        "gram-layer",
        objectives.MSE(),
        reduction.mean_feat_mean_tok,
        (transforms.Gram("layer"),),
        True,
        ("rotate",),
    ),
    Case(
        "sp",
        objectives.MSE(),
        reduction.mean_sample,
        (POOL, transforms.Gram("sample"), transforms.L2Norm()),
        moves=("rotate", "scale"),
    ),
    Case(
        "wr-pair",
        objectives.KL(),
        reduction.mean_query,
        (transforms.PairDist("cos", "token"),),
        moves=("rotate", "scale", "scale-each"),
    ),
    Case("wr-triple", objectives.WindowAngles(5), reduction.mean_tok, moves=EVERY),
    Case(
        "ltr-pair",
        objectives.KL(),
        reduction.mean_feat_mean_tok,
        (transforms.PairDist("cos", "layer"),),
        True,
        ("rotate", "scale", "scale-each"),
    ),
    Case("ltr-triple", objectives.LayerAngles(), reduction.mean_tok, stacked=True, moves=EVERY),
    Case(
        "rkd-distance",
        objectives.RKDDistance(),
        reduction.mean_sample,
        (POOL, transforms.PairDist("l2", "sample")),
        moves=EVERY,
    ),
    Case("rkd-angle", objectives.SampleAngles(), reduction.mean_cls, (POOL,), moves=EVERY),
    Case("token-pair", objectives.RelationMSE(), reduction.mean_pair, (SPLIT,)),
    Case("token-triple", GUIDED, reduction.mean_cls, moves=EVERY),
    Case("token-triple-heads", GUIDED, reduction.mean_cls, (SPLIT,), moves=("shift", "scale")),
    Case(
        "span-pair", objectives.RelationMSE(), reduction.mean_span_pair, (transforms.Spans(), SPLIT)
    ),
    Case("span-triple", GUIDED, reduction.mean_cls, (transforms.Spans(),), moves=EVERY),
    Case("cka-token", objectives.CKA(), reduction.mean_batch, moves=EVERY),
    Case("cka-sample", objectives.CKA(), reduction.mean_batch, (POOL,), moves=EVERY),
    Case(
        "distances",
        objectives.MSE(),
        reduction.mean_pair,
        (transforms.PairDist("l2", "token"),),
        moves=("rotate", "shift"),
    ),
]
FLOW = Case("flow", objectives.FlowMSE(), reduction.mean_cls, stacked=True)
FSP = Case(
    "fsp",
    objectives.MSE(),
    reduction.mean_feat_mean_cls,
    (transforms.Gram("feature"),),
    stacked=True,
)


def every_case(*, fsp: bool = True) -> pytest.MarkDecorator:
    cases = [*CASES, FSP, FLOW] if fsp else CASES
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def sides_of(case: Case) -> tuple[Tensor, Tensor]:
    student, teacher = case.sides()
    return student, teacher[..., :S] if case in (FSP, FLOW) else teacher


def moved(x: Tensor, how: str) -> Tensor:
    match how:
        case "rotate":
            rotation, _ = torch.linalg.qr(draw(x.shape[-1], x.shape[-1], seed=5))
            return x @ rotation
        case "shift":
            return x + draw(x.shape[-1], seed=6)
        case "scale":
            return 3.5 * x
        case _:
            return x * (0.5 + draw(*x.shape[:-1], 1, seed=7).abs())


@every_case()
def test_equal_sides_have_no_distance_and_no_gradient(case: Case, mask: Tensor) -> None:
    _, teacher = sides_of(case)
    student = teacher.clone().requires_grad_(True)
    value = case.value(student, teacher, around(mask))
    assert abs(value.item()) < 1e-13
    value.backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@every_case()
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_neither_value_nor_gradient(case: Case, mask: Tensor, causal: bool) -> None:
    values, gradients = [], []
    for extra in (0, 4):
        student, teacher = sides_of(case)
        garbage = [x.new_full((B, extra, *x.shape[2:]), 9.0) for x in (student, teacher)]
        student = torch.cat([student, garbage[0]], 1).requires_grad_(True)
        teacher = torch.cat([teacher, garbage[1]], 1)
        longer = torch.cat([mask, mask.new_zeros(B, extra)], 1)
        context = around(longer, causal=causal)
        assert context.guide is not None
        guide = torch.full_like(context.guide, 9.0)
        guide[..., :N, :N] = around(mask).guide
        context = dataclasses.replace(context, guide=guide)
        value = case.value(student, teacher, context)
        value.backward()
        assert student.grad is not None
        assert student.grad[~longer.bool()].abs().max() == 0
        values.append(value.detach())
        gradients.append(student.grad[:, :N])
    assert values[0] > 1e-7
    torch.testing.assert_close(values[1], values[0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-13)


@every_case()
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    student, teacher = (x[:2, :5] for x in sides_of(case))
    if case.reduction.over in ("sample", "batch") or case.chain[:1] == (POOL,):
        student, teacher, mask = (
            x.repeat(2, *[1] * (x.ndim - 1)) for x in (student, teacher, mask)
        )
        student = student + 0.1 * draw(*student.shape, seed=8)
        teacher = teacher + 0.1 * draw(*teacher.shape, seed=9)
    leaf = student.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: case.value(s, teacher, around(mask)), (leaf,))


@pytest.mark.parametrize(
    ("case", "how"),
    [(case, how) for case in CASES for how in case.moves],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_moving_the_space_changes_nothing(case: Case, how: str, mask: Tensor) -> None:
    student, teacher = case.sides()
    plain = case.value(student, teacher, around(mask))
    other = case.value(moved(student, how), teacher, around(mask))
    torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-12)


def test_every_move_a_relation_does_not_allow_changes_it(mask: Tensor) -> None:
    for case in CASES:
        if case.name in ("gram-token-heads", "token-pair", "span-pair", "token-triple-heads"):
            student, teacher = case.sides()
            plain = case.value(student, teacher, around(mask))
            assert case.value(moved(student, "rotate"), teacher, around(mask)) != pytest.approx(
                plain
            )


@every_case(fsp=False)
def test_half_precision_is_compared_in_float32(case: Case, mask: Tensor) -> None:
    student, teacher = (x.float() for x in case.sides())
    low = case.value(student, teacher, around(mask))
    exact = case.value(student.double(), teacher.double(), around(mask))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=1e-3, atol=1e-6)


def test_flows_are_those_of_the_matrices_that_are_not_built(mask: Tensor) -> None:
    student, teacher = sides_of(FSP)
    context = around(mask)
    torch.testing.assert_close(
        FLOW.value(student, teacher, context), FSP.value(student, teacher, context)
    )
    low = FLOW.value(student.float(), teacher.float(), context)
    torch.testing.assert_close(low.double(), FSP.value(student, teacher, context))


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_gram_matrices_agree_with_their_twins(mask: Tensor) -> None:
    x = draw(B, N, LAYERS, S)
    one = transforms.Gram("token")(x[:, :, 0], around(mask), None)
    np.testing.assert_allclose(
        one[:, 0], twins.gram_of_tokens(x[:, :, 0].numpy(), x[:, :, 0].numpy())
    )
    shape = Shape(positions="tok", features=S, layers=LAYERS)
    tokens, features, layers = (
        transforms.Gram(of).resolve(shape, shape) for of in ("token", "feature", "layer")
    )
    assert tokens.shape(shape) == Shape(positions="pair", heads=LAYERS - 1)
    steps = tokens(x, around(mask), None)
    flows = features(x, around(mask), None).view(B, LAYERS - 1, S, S)
    assert features.shape(shape).features == flows[0].numel()
    for i in range(LAYERS - 1):
        left, right = x[:, :, i].numpy(), x[:, :, i + 1].numpy()
        np.testing.assert_allclose(steps[:, i], twins.gram_of_tokens(left, right))
        expected = twins.gram_of_features(left, right, mask.numpy())
        np.testing.assert_allclose(flows[:, i], expected, rtol=1e-10, atol=1e-12)
    between = layers(x, around(mask), None).view(B, N, LAYERS, LAYERS)
    np.testing.assert_allclose(between[1, 2], (x[1, 2] @ x[1, 2].T / S).numpy())
    assert layers.shape(shape).features == LAYERS**2


def test_heads_have_gram_matrices_of_their_own(mask: Tensor) -> None:
    x = draw(B, N, S)
    shape = Shape(positions="tok", features=S)
    split = transforms.SplitHeads(3)
    gram = transforms.Gram("token").resolve(split.shape(shape), split.shape(shape))
    maps = gram(split(x, around(mask), None), around(mask), None)
    assert maps.shape == (B, 3, N, N)
    scaled = transforms.Relation(heads=3)(x, around(mask), None) / (S // 3) ** 0.5
    torch.testing.assert_close(maps, scaled)


def test_sp_is_the_mean_square_of_row_normalised_similarities(mask: Tensor) -> None:
    case = case_named("sp")
    student, teacher = case.sides()
    pooled = [
        np.array([x[b][mask[b].bool()].mean(0).numpy() for b in range(B)])
        for x in (student, teacher)
    ]
    g_s, g_t = (x @ x.T / np.linalg.norm(x @ x.T, axis=1, keepdims=True) for x in pooled)
    value = case.value(student, teacher, around(mask)).item()
    assert value == pytest.approx(((g_s - g_t) ** 2).sum() / B**2, rel=1e-10)


def test_pairs_of_words_agree_with_their_twin(mask: Tensor) -> None:
    case = case_named("wr-pair")
    student, teacher = case.sides()
    values = []
    for b in range(B):
        real = mask[b].bool()
        values += twins.kl_over_others(student[b][real].numpy(), teacher[b][real].numpy())
    value = case.value(student, teacher, around(mask)).item()
    assert value == pytest.approx(np.mean(values), rel=1e-10)


def test_pairs_of_layers_agree_with_their_twin(mask: Tensor) -> None:
    case = case_named("ltr-pair")
    student, teacher = case.sides()
    values = []
    for b, n in mask.nonzero().tolist():
        values += twins.kl_over_others(student[b, n].numpy(), teacher[b, n].numpy())
    value = case.value(student, teacher, around(mask)).item()
    assert value == pytest.approx(np.mean(values), rel=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [3, 5, 21])
def test_triples_of_words_agree_with_their_twin(mask: Tensor, window: int, causal: bool) -> None:
    case = dataclasses.replace(case_named("wr-triple"), objective=objectives.WindowAngles(window))
    student, teacher = case.sides()
    value = case.value(student, teacher, around(mask, causal=causal)).item()
    twin = twins.window_angles(student.numpy(), teacher.numpy(), mask.numpy(), window, causal)
    assert value == pytest.approx(twin, rel=1e-9)


def test_a_window_ends_where_the_sequence_ends() -> None:
    mask = torch.ones(1, 6, dtype=torch.long)
    student, teacher = draw(1, 6, S, seed=1), draw(1, 6, T, seed=2)
    values = objectives.WindowAngles(3)(student, teacher, around(mask))
    assert values[0, [0, 5]].tolist() == [0.0, 0.0]
    assert (values[0, 1:5] > 0).all()


def test_a_choice_of_everything_is_no_choice(mask: Tensor) -> None:
    case = case_named("token-triple")
    found = []
    for partners in (N, N - 1):
        student, teacher = case.sides()
        student.requires_grad_(True)
        objective = objectives.GuidedAngles(N, partners)
        value = dataclasses.replace(case, objective=objective).value(student, teacher, around(mask))
        value.backward()
        found.append((value.detach(), student.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["wr-triple", "ltr-triple", "rkd-angle", "token-triple"])
def test_a_teacher_that_learns_has_the_gradient_of_finite_differences(name: str) -> None:
    case, mask = case_named(name), torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    student, teacher = (x[:2, :6] for x in case.sides())
    leaves = [x.clone().requires_grad_(True) for x in (student, teacher)]
    assert torch.autograd.gradcheck(lambda s, t: case.value(s, t, around(mask)), leaves)


@pytest.mark.parametrize("name", ["wr-triple", "ltr-triple", "rkd-angle", "token-triple"])
def test_vectors_far_from_the_origin_keep_their_digits(name: str, mask: Tensor) -> None:
    case = case_named(name)
    student, teacher = case.sides()
    plain = case.value(student, teacher, around(mask))
    far = case.value(student.float() + 100, teacher.float() - 100, around(mask))
    torch.testing.assert_close(far.double(), plain, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["wr-triple", "ltr-triple", "token-triple", "span-triple"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_vectors_have_no_direction_and_finite_gradients(
    name: str, dtype: torch.dtype, mask: Tensor
) -> None:
    case = case_named(name)
    student, teacher = (x.to(dtype) for x in case.sides())
    alone = case.value(torch.ones_like(student).requires_grad_(True), teacher, around(mask))
    assert alone.item() == pytest.approx(
        case.value(torch.zeros_like(student), teacher, around(mask)).item()
    )
    # Two equal tokens, and two equal layers of all tokens.
    student[:, 1] = student[:, 0]
    if case.stacked:
        student[:, :, 1] = student[:, :, 0]
    leaf = student.requires_grad_(True)
    case.value(leaf, teacher, around(mask)).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() < 10


def test_triples_of_layers_agree_with_their_twin(mask: Tensor) -> None:
    case = case_named("ltr-triple")
    student, teacher = case.sides()
    value = case.value(student, teacher, around(mask)).item()
    assert value == pytest.approx(
        twins.layer_angles(student.numpy(), teacher.numpy(), mask.numpy())
    )


@pytest.mark.parametrize("name", ["rkd-distance", "rkd-angle"])
def test_rkd_agrees_with_its_twin(name: str) -> None:
    mask = torch.ones(5, 1, dtype=torch.long)
    student, teacher = draw(5, 1, S, seed=1), draw(5, 1, T, seed=2)
    value = case_named(name).value(student, teacher, around(mask)).item()
    twin = {"rkd-distance": twins.rkd_distance, "rkd-angle": twins.sample_angles}[name]
    assert value == pytest.approx(twin(student[:, 0].numpy(), teacher[:, 0].numpy()), rel=1e-9)


def test_equal_sequences_give_finite_gradients() -> None:
    mask = torch.ones(4, 1, dtype=torch.long)
    teacher = draw(4, 1, T, seed=2)
    student = draw(4, 1, S, seed=1)
    student[1] = student[0]
    for name in ("rkd-distance", "rkd-angle", "sp"):
        leaf = student.clone().requires_grad_(True)
        case_named(name).value(leaf, teacher, around(mask)).backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() < 1e2


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_products_of_pairs_are_those_of_the_maps(mask: Tensor, heads: int, causal: bool) -> None:
    short = dataclasses.replace(case_named("token-pair"), chain=(transforms.SplitHeads(heads),))
    maps = Case("maps", objectives.MSE(), reduction.mean_pair, (transforms.Relation(heads),))
    student, teacher = short.sides()
    for context in (around(mask, causal=causal),):
        left, right = (c.value(student, teacher, context) for c in (short, maps))
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-13)


def test_spans_are_means_of_three_real_tokens() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]])
    x = draw(3, 7, S)
    found = transforms.Spans()(x, around(mask), None)
    valid = around(mask).of_spans().mask_BN
    assert found.shape[1] == -(-7 // SPAN)
    assert valid.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]
    for b in range(3):
        expected = twins.spans(x[b].numpy(), mask[b].numpy())
        np.testing.assert_allclose(found[b, : len(expected)], expected)
    assert reduction.mean_span_pair.denominator(around(mask)) == 4 + 4 + 1


def test_pairs_of_spans_agree_with_their_twin(mask: Tensor) -> None:
    case = case_named("span-pair")
    student, teacher = case.sides()
    total, count = 0.0, 0
    for b in range(B):
        maps = []
        for x in (student, teacher):
            own = twins.spans(x[b].numpy(), mask[b].numpy())
            maps.append(twins.relation(own[None], 2)[0])
        total += ((maps[0] - maps[1]) ** 2).mean(0).sum()
        count += maps[0].shape[-1] ** 2
    value = case.value(student, teacher, around(mask)).item()
    assert value == pytest.approx(total / count, rel=1e-10)


@pytest.mark.parametrize("close", [0, 2])
def test_guided_triples_agree_with_their_twin_and_follow_the_teacher(
    close: int, mask: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.distill.objectives.angles._CLOSE", close)
    case = case_named("token-triple")
    student, teacher = case.sides()
    context = around(mask)
    assert context.guide is not None
    values = []
    for b in range(B):
        real = np.flatnonzero(mask[b].numpy())
        given = context.guide[b].mean(0).numpy()[np.ix_(real, real)]
        s, t = student[b].numpy()[real], teacher[b].numpy()[real]
        values.append(twins.guided_angles(s, t, given, GUIDED.vertices, GUIDED.partners))
    value = case.value(student, teacher, context).item()
    assert value == pytest.approx(np.mean(values), rel=1e-9)
    other = dataclasses.replace(context, guide=context.guide.flip(-1))
    assert case.value(student, teacher, other).item() != pytest.approx(value)


def test_attention_between_spans_is_what_their_tokens_give() -> None:
    mask = torch.ones(1, 5, dtype=torch.long)
    guide = draw(1, 2, 5, 5).softmax(-1)
    spans = dataclasses.replace(around(mask), guide=guide).of_spans().guide
    assert spans is not None
    heads = guide[0].mean(0)
    expected = torch.stack([heads[:3].mean(0), heads[3:].mean(0)])
    expected = torch.stack([expected[:, :3].sum(-1), expected[:, 3:].sum(-1)], -1)
    torch.testing.assert_close(spans[0, 0], expected)


@pytest.mark.parametrize("rows", [6, 30])
def test_cka_agrees_with_centred_gram_matrices(rows: int) -> None:
    x, y = draw(rows, S, seed=1), draw(rows, T, seed=2)
    ours = objectives.CKA()(x, y, around(torch.ones(rows, 1))).item()
    assert ours == pytest.approx(1 - twins.cka(x.numpy(), y.numpy()), rel=1e-9)


def test_cka_of_tokens_reads_all_real_tokens_of_the_batch(mask: Tensor) -> None:
    student, teacher = draw(B, N, S, seed=1), draw(B, N, T, seed=2)
    real = mask.bool()
    ours = objectives.CKA()(student, teacher, around(mask)).item()
    assert ours == pytest.approx(1 - twins.cka(student[real].numpy(), teacher[real].numpy()))


@pytest.mark.parametrize("name", ["token-triple", "token-triple-heads", "span-triple"])
def test_pieces_give_the_same_value_and_gradient(
    name: str, mask: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few that they are chosen among all.
    few = objectives.GuidedAngles(vertices=2, partners=2)
    case, found = dataclasses.replace(case_named(name), objective=few), []
    # Gathered at once, gathered in pieces, not gathered at all.
    for piece, close in ((1 << 21, 0), (1, 0), (1, N)):
        monkeypatch.setattr("toolchain.distill.objectives.angles._PIECE", piece)
        monkeypatch.setattr("toolchain.distill.objectives.angles._CLOSE", close)
        student, teacher = case.sides()
        student.requires_grad_(True)
        value = case.value(student, teacher, around(mask))
        value.backward()
        found.append((value.detach(), student.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-14)


def test_mgskd_relates_tokens_below_and_sequences_above() -> None:
    deep = TEACHER.reshaped(layers=12)
    terms = {b.name: b for b in bound_terms("mgskd", TEACHER.reshaped(layers=6), deep)["inter"]}
    low = terms["mgskd/token_pair"].layer_map.pairs
    assert low == ((0, 0), (1, 2), (2, 4), (3, 6))
    assert terms["mgskd/span_triple"].layer_map.pairs == low
    assert terms["mgskd/sample"].layer_map.pairs == ((4, 8), (5, 10), (6, 12))
    weights = {name: bound.term.weight for name, bound in terms.items()}
    assert weights["mgskd/sample"] == 4 * weights["mgskd/token_pair"]
    assert weights["mgskd/token_pair"] == weights["mgskd/span_triple"]


def test_the_guide_of_the_embeddings_is_the_first_blocks_attention() -> None:
    terms = {b.name: b for b in bound_terms("mgskd")["inter"]}
    asked = {r.layer for r in terms["mgskd/token_triple"].requests("teacher") if r.kind == "q"}
    assert asked == {1, 2}
    assert not {r for r in terms["mgskd/token_triple"].requests("student") if r.kind == "q"}


def test_the_choice_of_tokens_is_the_teachers(mask: Tensor, labels: Tensor) -> None:
    terms = tuple(b for b in bound_terms("mgskd")["inter"] if b.name.endswith("token_triple"))
    student, teacher = make_side(STUDENT, 3, 7, seed=1), make_side(TEACHER, 3, 7, seed=2)
    plain = loss_of(terms, student, teacher, mask, labels).total
    other = make_side(STUDENT, 3, 7, seed=3)
    for request, tensor in student.tensors.items():
        if request.kind in ("hidden", "emb"):
            other.tensors[request] = tensor
    assert loss_of(terms, other, teacher, mask, labels).total == plain


def term(objective: Objective, reduction_: Reduction, *chain: Transform, **more: object) -> Term:
    return Term("t", extract.hidden, objective, reduction_, matching.Last(), chain, **more)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (term(GUIDED, reduction.mean_cls), "guide: attn_probs"),
        (term(GUIDED, reduction.mean_cls, guide=extract.hidden), "guide: attn_probs"),
        (term(objectives.SampleAngles(), reduction.mean_cls), "pool them"),
        (term(objectives.LayerAngles(), reduction.mean_tok), "all_layers_stacked"),
        (term(objectives.RKDDistance(), reduction.mean_sample, POOL), "pairdist"),
        (term(objectives.RelationMSE(), reduction.mean_tok), "reduction"),
        (term(objectives.CKA(), reduction.mean_batch, transforms.Gram("token")), "extract hidden"),
        (
            term(objectives.MSE(), reduction.mean_pair, transforms.Gram(), transforms.L2Norm()),
            "leave l2norm out",
        ),
        (
            term(objectives.RelationMSE(), reduction.mean_pair, transforms.SplitHeads(7)),
            "numbers that do: 1, 2, 3, 4, 6",
        ),
        (term(objectives.MSE(), reduction.mean_sample, transforms.Gram("sample")), "pool the"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(written: Term, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        bind(written, STUDENT, TEACHER)
    assert message in str(refused.value) + str(refused.value.hint)


def test_sp_halves_when_the_batch_is_written_twice(mask: Tensor) -> None:
    case = case_named("sp")
    student, teacher = case.sides()
    once = case.value(student, teacher, around(mask)).item()
    twice = case.value(
        *(torch.cat([x, x]) for x in (student, teacher)), around(torch.cat([mask] * 2))
    )
    assert twice.item() == pytest.approx(once / 2, rel=1e-10)


STACKED = "all_layers_stacked"
OF_LAYERS: dict[str, object] = {"pairdist": {"of": "layer"}}
OF_SAMPLES: dict[str, object] = {"pairdist": {"how": "l2", "of": "sample"}}


@pytest.mark.parametrize(
    ("written", "reduced"),
    [
        ({"match": STACKED, "transform": [OF_LAYERS], "objective": "kl"}, "mean_tok"),
        ({"match": STACKED, "objective": "angles_layers"}, "mean_tok"),
        ({"match": STACKED, "transform": ["gram"], "objective": "mse"}, "mean_pair"),
        ({"transform": [{"gram": {"of": "feature"}}], "objective": "mse"}, "mean_feat_mean_cls"),
        ({"transform": ["pairdist"], "objective": "kl"}, "mean_query"),
        ({"transform": ["spans", "split_heads"], "objective": "relation_mse"}, "mean_span_pair"),
        ({"transform": ["spans"], "objective": "mse"}, "mean_feat_mean_span"),
        ({"objective": "angles_guided", "guide": "attn_probs"}, "mean_cls"),
        ({"objective": "angles_window"}, "mean_tok"),
        ({"objective": "cka"}, "mean_batch"),
        ({"transform": ["pool"], "objective": "rkd_angle"}, "mean_cls"),
        ({"transform": ["pool", OF_SAMPLES], "objective": "rkd_distance"}, "mean_sample"),
    ],
    ids=str,
)
def test_every_relation_can_be_written_in_a_recipe(
    written: dict[str, object], reduced: str, mask: Tensor, labels: Tensor
) -> None:
    (term,) = read_terms([WrittenTerm.model_validate({"knowledge": "hidden", **written})])
    assert term.reduction.name == reduced
    bound = bind(term, STUDENT, TEACHER)
    student, teacher = make_side(STUDENT, 3, 7, seed=1, grad=True), make_side(TEACHER, 3, 7, seed=2)
    loss = loss_of((bound,), student, teacher, mask, labels).total
    assert loss > 0
    loss.backward()
