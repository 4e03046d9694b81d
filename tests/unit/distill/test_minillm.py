"""MiniLLM: its estimator against the exact gradient of the reverse KL of whole texts, its sampling.

On a vocabulary of a few tokens every text can be written down, so expectations are sums: first with
a table of logits for each beginning, in float64, then with texts that real tiny decoders wrote.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.unit.distill import twins
from tests.unit.distill.test_operators import decoder, encoder, questions, running, soft
from toolchain.data.batching import Batch
from toolchain.distill import objectives
from toolchain.distill.capture import Captures
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.generation import prompts_of
from toolchain.distill.mixing import Mixed
from toolchain.distill.objectives import LongReturn, NextRKL, Objective
from toolchain.distill.operators import TeacherMixed
from toolchain.distill.seen import Seen
from toolchain.distill.shapes import Unfit
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.distill.term import bind
from toolchain.errors import UsageError
from toolchain.models.family import family_of

IGNORED = -100
Text = tuple[int, ...]
Table = Mapping[Text, Tensor]
"""Logits of the next token (V,) behind each beginning."""


def batch_of(texts: Sequence[Text]) -> Context:
    """The context of texts without prompts: one row of logits for every token."""
    mask = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for b, text in enumerate(texts):
        mask[b, : len(text)] = 1
    return Context(
        mask_BN=mask,
        labels_P=torch.tensor([token for text in texts for token in text]),
        sample_P=mask.nonzero()[:, 0],
    )


def rows_of(table: Table, texts: Sequence[Text]) -> Tensor:
    return torch.stack([table[text[:t]] for text in texts for t in range(len(text))])


def random_texts(seed: int, vocabulary: int = 5) -> tuple[list[Text], Tensor, Tensor]:
    """Texts of unequal lengths with logits (P, V) of a student and a teacher."""
    own = np.random.default_rng(seed)
    texts = [tuple(own.integers(0, vocabulary, size=n).tolist()) for n in own.permutation(5) + 1]
    both = 1.5 * torch.from_numpy(own.standard_normal((2, sum(map(len, texts)), vocabulary)))
    return texts, both[0], both[1]


# --- closed forms


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("length_norm", [True, False])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_values_and_gradients_are_those_of_the_formula(
    alpha: float, clip: float | None, length_norm: bool, seed: int
) -> None:
    texts, student, teacher = random_texts(seed)
    parts: tuple[Objective, ...] = (NextRKL(alpha), LongReturn(alpha, clip, length_norm))
    ours = []
    for part in parts:
        own = student.clone().requires_grad_(True)
        values = part(own, teacher, batch_of(texts))
        (slope,) = torch.autograd.grad(values.sum(), own)
        ours += [values.detach(), slope]
    theirs: tuple[list[np.ndarray], ...] = ([], [], [], [])
    place = 0
    for text in texts:
        rows = slice(place, place + len(text))
        place += len(text)
        found = twins.minillm(
            student[rows].numpy(), teacher[rows].numpy(), text, alpha, clip, length_norm
        )
        for part_of, value in zip(theirs, found, strict=True):
            part_of.append(value)
    single, long, single_slope, long_slope = (torch.from_numpy(np.concatenate(x)) for x in theirs)
    for mine, slow in zip(ours, (single, single_slope, long, long_slope), strict=True):
        torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-11)


def test_without_a_share_the_exact_part_is_the_reverse_kl_and_differentiable_throughout() -> None:
    texts, student, teacher = random_texts(1)
    part, around = NextRKL(0.0), batch_of(texts)
    rkl = objectives.RKL()(student, teacher, around)
    torch.testing.assert_close(part(student, teacher, around), rkl, rtol=1e-12, atol=0)
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: part(s, teacher, around), (student,))


def test_the_long_part_has_the_slope_of_finite_differences_with_its_fixed_parts_fixed() -> None:
    """Of w_t R_t, where R_t and the mixture are constants: what autograd must not see."""
    texts, student, teacher = random_texts(2)
    around, part = batch_of(texts), LongReturn(0.3, None)
    own = student.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(part(own, teacher, around).sum(), own)
    tokens = around.labels_P[:, None]  # type: ignore[index]
    log_q, log_p = (z.log_softmax(-1).gather(-1, tokens)[:, 0] for z in (student, teacher))
    mixture = 0.3 * log_p.exp() + 0.7 * log_q.exp()
    returns = -part(student, teacher, around) / (log_q.exp() / mixture)

    def fixed(z: Tensor) -> Tensor:
        return -(z.softmax(-1).gather(-1, tokens)[:, 0] / mixture * returns).sum()

    step, found = 1e-6, torch.zeros_like(student)
    for index in itertools.product(*map(range, student.shape)):
        moved = torch.zeros_like(student)
        moved[index] = step
        found[index] = (fixed(student + moved) - fixed(student - moved)) / (2 * step)
    torch.testing.assert_close(slope, found, rtol=1e-6, atol=1e-8)


def test_a_last_token_earns_nothing_and_a_text_of_one_token_neither() -> None:
    texts, student, teacher = random_texts(3)
    values = LongReturn()(student, teacher, batch_of(texts))
    ends = np.cumsum([len(text) for text in texts]) - 1
    assert values[ends].abs().max() == 0
    assert values.count_nonzero() == len(values) - len(texts)


def test_the_clip_stops_what_would_move_a_rare_token_further() -> None:
    """w = 1 / (1 - alpha) where the teacher never says the token: above 1 + eps with alpha 0.5."""
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-50.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    values = LongReturn(0.5, 0.2)(student, teacher, batch_of([(0, 0)]))
    r = np.log(1 / (1 + np.exp(-3.0)) / 0.5)
    assert r > 0
    assert values[0].item() == pytest.approx(-1.2 * r)
    (slope,) = torch.autograd.grad(values.sum(), student)
    assert slope.abs().max() == 0
    # Without the clip it moves on.
    values = LongReturn(0.5, None)(student, teacher, batch_of([(0, 0)]))
    assert values[0].item() == pytest.approx(-2.0 * r)
    assert torch.autograd.grad(values.sum(), student)[0].abs().max() > 0.1


# --- the estimator, by enumeration


END = 0


def all_texts(vocabulary: int, longest: int) -> list[Text]:
    """Every text that ends with the end token or is as long as may be."""
    found: list[Text] = []

    def grow(text: Text) -> None:
        if text and (text[-1] == END or len(text) == longest):
            found.append(text)
            return
        for token in range(vocabulary):
            grow((*text, token))

    grow(())
    return found


def table_of(texts: Sequence[Text], vocabulary: int, seed: int) -> dict[Text, Tensor]:
    own = torch.Generator().manual_seed(seed)
    beginnings = sorted({text[:t] for text in texts for t in range(len(text))})
    draw = 1.2 * torch.randn(len(beginnings), vocabulary, generator=own, dtype=torch.float64)
    return {b: row.requires_grad_(True) for b, row in zip(beginnings, draw, strict=True)}


def log_prob_of_texts(rows: Tensor, context: Context) -> Tensor:
    """log q(y) of each text, (B,)."""
    assert context.labels_P is not None
    assert context.sample_P is not None
    log_P = rows.log_softmax(-1).gather(-1, context.labels_P[:, None])[:, 0]
    return log_P.new_zeros(len(context.mask_BN)).index_add(0, context.sample_P, log_P)


def slopes(value: Tensor, table: Table) -> Tensor:
    found = torch.autograd.grad(value, list(table.values()), allow_unused=True)
    return torch.stack(
        [
            torch.zeros_like(z) if x is None else x
            for x, z in zip(found, table.values(), strict=True)
        ]
    )


def expected(
    parts: Sequence[Objective], student: Table, teacher: Table, texts: Sequence[Text], alpha: float
) -> Tensor:
    """The parts' sum over each text, in expectation over texts from the mixture, differentiable.

    The probability of a text is a constant here: it is how often it would be drawn.
    """
    context = batch_of(texts)
    q, p = rows_of(student, texts), rows_of(teacher, texts).detach()
    assert context.labels_P is not None
    assert context.sample_P is not None
    mixture = (alpha * p.softmax(-1) + (1 - alpha) * q.detach().softmax(-1)).log()
    chance_B = log_prob_of_texts(mixture, context).exp()
    torch.testing.assert_close(chance_B.sum(), torch.ones((), dtype=torch.float64))
    values_P = torch.stack([part(q, p, context) for part in parts]).sum(0)
    return (chance_B[context.sample_P] * values_P).sum()


def reverse_kl(student: Table, teacher: Table, texts: Sequence[Text]) -> Tensor:
    """sum_y q(y) log(q(y) / p(y)) over whole texts, differentiable through q(y)."""
    context = batch_of(texts)
    log_q, log_p = (log_prob_of_texts(rows_of(x, texts), context) for x in (student, teacher))
    return (log_q.exp() * (log_q - log_p.detach())).sum()


@pytest.mark.parametrize(("longest", "length_norm"), [(2, True), (2, False), (4, False)])
def test_in_expectation_both_parts_give_the_gradient_of_the_reverse_kl_of_texts(
    longest: int, length_norm: bool
) -> None:
    """On the student's own texts. With two tokens a mean over what follows is its sum."""
    texts = all_texts(3, longest)
    student, teacher = table_of(texts, 3, 1), table_of(texts, 3, 2)
    exact = slopes(reverse_kl(student, teacher, texts), student)
    parts = (NextRKL(0.0), LongReturn(0.0, None, length_norm))
    ours = slopes(expected(parts, student, teacher, texts, 0.0), student)
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    # Neither part alone does.
    for part in parts:
        alone = slopes(expected([part], student, teacher, texts, 0.0), student)
        assert (alone - exact).abs().max() > 0.01


def test_the_mean_over_what_follows_is_another_gradient_for_longer_texts() -> None:
    texts = all_texts(3, 4)
    student, teacher = table_of(texts, 3, 1), table_of(texts, 3, 2)
    exact = slopes(reverse_kl(student, teacher, texts), student)
    parts = (NextRKL(0.0), LongReturn(0.0, None, length_norm=True))
    ours = slopes(expected(parts, student, teacher, texts, 0.0), student)
    assert (ours - exact).abs().max() > 0.01


def test_the_weights_undo_the_mixture_for_the_first_token() -> None:
    """w_1 is the exact weight there; of later ones the paper weighs y_t alone, not its prefix."""
    texts = all_texts(4, 1)
    student, teacher = table_of(texts, 4, 3), table_of(texts, 4, 4)
    exact = slopes(reverse_kl(student, teacher, texts), student)
    for alpha in (0.0, 0.2, 0.8):
        ours = slopes(expected([NextRKL(alpha)], student, teacher, texts, alpha), student)
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
        unweighted = expected([NextRKL(0.0)], student, teacher, texts, alpha)
        torch.testing.assert_close(slopes(unweighted, student), exact, rtol=1e-9, atol=1e-12)
    # What is earned later is seen by the student's chances of the token, not the mixture's.
    texts = all_texts(3, 2)
    student, teacher = table_of(texts, 3, 5), table_of(texts, 3, 6)
    alpha = 0.4
    first_q = student[()].softmax(-1)
    earned = torch.zeros(3, dtype=torch.float64)
    for token in range(1, 3):
        q, p = (x[(token,)].detach().softmax(-1) for x in (student, teacher))
        earned[token] = ((alpha * p + (1 - alpha) * q) * (p / q).log()).sum()
    by_hand = slopes(-(first_q * earned).sum(), student)
    ours = slopes(expected([LongReturn(alpha, None)], student, teacher, texts, alpha), student)
    torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-12)


def test_student_and_teacher_alike_have_neither_loss_nor_gradient_on_any_text() -> None:
    """Not in expectation alone: every reward is zero, on every text there is."""
    texts = all_texts(3, 4)
    student = table_of(texts, 3, 7)
    for alpha in (0.0, 0.2, 0.9):
        for part in (NextRKL(alpha), LongReturn(alpha)):
            rows = rows_of(student, texts)
            values = part(rows, rows.detach(), batch_of(texts))
            assert values.abs().max() < 1e-14
            assert slopes(values.sum(), student).abs().max() < 1e-14


# --- masks and batches


def method_terms(model: TrainingModel, **options: object):
    stages = compose("minillm", {"minillm": options}).stages
    return tuple(bind(term, model.spec, model.spec) for term in stages["pred"])


def test_padding_and_batches_do_not_change_the_loss_of_texts() -> None:
    model = decoder()
    texts, student, teacher = random_texts(5, vocabulary=40)
    terms = [b for b in method_terms(model) if b.term.view == "teacher_mixed"]
    counts = {b.name: float(len(student)) for b in terms}

    def loss(chosen: slice, extra: int = 0) -> Tensor:
        around = batch_of(texts[chosen])
        mask = torch.nn.functional.pad(around.mask_BN, (0, extra))
        around = dataclasses.replace(around, mask_BN=mask)
        first = sum(map(len, texts[: chosen.start]))
        rows = slice(first, first + int(mask.sum()))
        own, other = (
            Captures({Request("logits"): x[rows]}, model.spec.heads) for x in (student, teacher)
        )
        seen = Seen(own, (other,), around)
        distiller = Distiller(tuple(terms)).double()
        return distiller.total(
            distiller({"plain": seen, "teacher_mixed": seen}, counts), around.moment
        )

    whole = loss(slice(0, 5))
    torch.testing.assert_close(loss(slice(0, 5), extra=3), whole, rtol=1e-12, atol=0)
    pieces = [loss(slice(0, 2)), loss(slice(2, 3)), loss(slice(3, 5))]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole, rtol=1e-12, atol=1e-14)


# --- real decoders


def small(seed: int, vocabulary: int = 6, end: int | None = None) -> TrainingModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, max_position_embeddings=16,
        initializer_range=0.5, bos_token_id=None, eos_token_id=end, pad_token_id=0,
    )  # fmt: skip
    family = family_of("llama")
    spec = family.spec(config.to_dict(), task="causal_lm")
    return TrainingModel(model=LlamaForCausalLM(config), family=family, spec=spec)


def asking(rows: int) -> Batch:
    """The same prompt of two tokens in every row, and room for two more."""
    ids = torch.tensor([[1, 2, 3, 3]]).repeat(rows, 1)
    labels = torch.full_like(ids, IGNORED)
    labels[:, 1:3] = ids[:, 2:]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, labels, tuple(range(rows)))


def pairs_of_tokens(model: TrainingModel) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the first (V,) and second (V, V) token behind that prompt."""
    size = model.spec.vocab
    ids = torch.cat([torch.tensor([[1, 2]]).repeat(size, 1), torch.arange(size)[:, None]], dim=1)
    logs = model.model.eval()(input_ids=ids).logits.log_softmax(-1)
    return logs[0, 1], logs[:, 2]


def test_the_gradient_from_texts_that_were_drawn_is_that_of_all_texts() -> None:
    student, teacher = small(1), small(2)
    weights = list(student.model.parameters())
    (first_q, second_q), (first_p, second_p) = map(pairs_of_tokens, (student, teacher))
    log_q, log_p = first_q[:, None] + second_q, (first_p[:, None] + second_p).detach()
    exact = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), weights)
    operator = TeacherMixed(alpha=0.0)
    terms = compose("minillm", {"minillm": {"alpha": 0.0, "clip": None, "lm": 0.0}}).stages["pred"]
    found: list[list[Tensor]] = []
    with running(student, [teacher], operator, terms) as (passes, distiller):
        for step in range(30):
            seen = passes.seen(asking(2000), Moment(step=step, steps=30, seed=4))
            assert all(p.grad is None for p in teacher.model.parameters())
            values = distiller(seen, passes.denominators(seen))
            # Means over tokens, of which each text has two.
            total = 2 * sum(values.values())
            found.append(list(torch.autograd.grad(total, weights)))
    agreeing, moved = 0, 0
    for i, slope in enumerate(exact):
        drawn = torch.stack([grads[i] for grads in found])
        error = drawn.std(0) / len(drawn) ** 0.5
        # One in 15,000 lies beyond four standard errors by chance, and there are 600 numbers.
        assert ((drawn.mean(0) - slope).abs() <= 4.5 * error + 1e-5).all()
        agreeing += int((drawn.mean(0).sign() == slope.sign())[slope.abs() > 5 * error].sum())
        moved += int((slope.abs() > 5 * error).sum())
    assert agreeing == moved > 100


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8])
def test_texts_are_drawn_from_the_mixture(alpha: float) -> None:
    student, teacher = small(1), small(2)
    rows = 6000
    with running(student, [teacher], TeacherMixed(alpha), (soft("teacher_mixed"),)) as (passes, _):
        seen = passes.seen(asking(rows), Moment(step=1, steps=3, seed=4))
        labels = seen["teacher_mixed"].context.labels_P
    assert labels is not None
    counts = torch.zeros(6, 6)
    counts.index_put_(tuple(labels.view(rows, 2).T), torch.ones(rows), accumulate=True)
    (q1, q2), (p1, p2) = (
        tuple(x.detach().exp() for x in pairs_of_tokens(m)) for m in (student, teacher)
    )
    chances = (alpha * p1 + (1 - alpha) * q1)[:, None] * (alpha * p2 + (1 - alpha) * q2)
    assert (counts / rows - chances).abs().max() < 0.025
    if alpha:
        assert (counts / rows - q1[:, None] * q2).abs().max() > 0.04


def steps_of(
    teacher: OnlineTeacher, prompts: Sequence[Tensor], answers: Tensor, scores: Tensor, alpha: float
) -> Iterator[Tensor]:
    """What the mixture says at each step of writing the answers (R, T); scores (R, T, V)."""
    width = max(map(len, prompts))
    ids = torch.stack([torch.cat([p.new_zeros(width - len(p)), p]) for p in prompts])
    mixed = Mixed(teacher, alpha, prompts, width)
    for t in range(answers.shape[1]):
        yield mixed(torch.cat([ids, answers[:, :t]], dim=1), scores[:, t])


def with_places() -> TrainingModel:
    """A decoder with a table of positions, which sees where a text begins."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=24, initializer_range=0.5,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    family = family_of("gpt2")
    spec = family.spec(config.to_dict(), task="causal_lm")
    return TrainingModel(model=GPT2LMHeadModel(config), family=family, spec=spec)


@pytest.mark.parametrize("make", [lambda: decoder(4, seed=3), with_places], ids=["llama", "gpt2"])
def test_the_teacher_reads_each_token_once_and_left_padding_does_not_reach_it(
    make: Callable[[], TrainingModel],
) -> None:
    teacher = make()
    prompts = [torch.tensor(x) for x in ([1, 9, 8, 7, 6], [1, 12], [1, 3, 30])]
    g = torch.Generator().manual_seed(0)
    answers, scores = torch.randint(5, 40, (3, 4), generator=g), torch.randn(3, 4, 40, generator=g)
    read: list[int] = []
    handle = teacher.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: read.append(args[0].shape[1])
    )
    opened = OnlineTeacher(teacher, [Request("logits")], device=torch.device("cpu"), bf16=False)
    said = torch.stack(list(steps_of(opened, prompts, answers, scores, 0.3)), dim=1)
    handle.remove()
    assert read == [5, 1, 1, 1]
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            whole = teacher.model(input_ids=torch.cat([prompt, answers[row]])[None]).logits[0]
        p = whole[len(prompt) - 1 : -1].softmax(-1)
        expected_T = (0.3 * p + 0.7 * scores[row].softmax(-1)).log()
        torch.testing.assert_close(said[row], expected_T, rtol=1e-4, atol=1e-5)
    opened.close()


def test_the_data_stay_as_they_are_and_texts_stand_in_a_view_of_their_own() -> None:
    student, teacher = decoder(), decoder(4, seed=9)
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    terms = compose("minillm", {}).stages["pred"]
    with running(student, [teacher], TeacherMixed(), terms) as (passes, distiller):
        moment = Moment(step=0, steps=5, seed=1)
        assert passes.prepared(questions(), moment) is not None
        seen = passes.seen(questions(), moment)
        plain, mixed = seen["plain"].context, seen["teacher_mixed"].context
        assert plain.labels_P is not None
        assert mixed.labels_P is not None
        assert plain.labels_P.tolist() == [20, 21, 2, 30, 2]
        assert mixed.labels_P.tolist() != plain.labels_P.tolist()
        # Nothing of the teacher is compared on the data, so it does not read them.
        assert seen["plain"].teachers == ()
        written = len(calls) - 1
        values = distiller(seen, passes.denominators(seen))
        assert set(values) == {"minillm/single", "minillm/long", "minillm/labels"}
        sum(values.values()).backward()  # type: ignore[union-attr]
    assert 1 <= written <= 7
    assert all(p.grad is not None for p in student.model.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    with running(student, [teacher], TeacherMixed(), (*terms, soft())) as (passes, _):
        assert len(passes.seen(questions(), moment)["plain"].teachers) == 1


def test_the_same_step_writes_the_same_texts() -> None:
    drawn = []
    for step in (3, 3, 4):
        with running(decoder(), [decoder(4)], TeacherMixed(), (soft("teacher_mixed"),)) as (p, _):
            seen = p.seen(questions(), Moment(step=step, steps=9, seed=7))["teacher_mixed"]
            assert seen.context.labels_P is not None
            drawn.append(seen.context.labels_P.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_training_lowers_the_reverse_kl_of_texts() -> None:
    """Measured over all texts of two tokens, which the estimator never saw together."""
    student, teacher = small(1), small(2)

    def distance() -> float:
        with torch.no_grad():
            (a, b), (c, d) = map(pairs_of_tokens, (student, teacher))
            log_q, log_p = a[:, None] + b, c[:, None] + d
            return float((log_q.exp() * (log_q - log_p)).sum())

    before = distance()
    terms = compose("minillm", {"minillm": {"lm": 0.0}}).stages["pred"]
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-2)
    with running(student, [teacher], TeacherMixed(), terms) as (passes, distiller):
        for step in range(60):
            seen = passes.seen(asking(32), Moment(step=step, steps=60, seed=4))
            sum(distiller(seen, passes.denominators(seen)).values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
    assert before > 0.5
    assert distance() < 0.1 * before


# --- what is refused


def test_models_that_cannot_write_together_are_refused() -> None:
    causal, classifier = decoder().spec, encoder(2).spec
    TeacherMixed().check(causal, causal)
    with pytest.raises(Unfit, match="the student is a model for classify"):
        TeacherMixed().check(classifier, classifier)
    with pytest.raises(Unfit, match="the student has 30, the teacher 40"):
        TeacherMixed().check(dataclasses.replace(causal, vocab=30), causal)
    with pytest.raises(Unfit, match="share of the text is 1"):
        TeacherMixed(alpha=1.0).check(causal, causal)


def test_labels_are_learned_from_the_data_and_not_from_texts_nobody_labelled() -> None:
    assert compose("kd+minillm", {}).operators
    written = dataclasses.replace(
        compose("finetune", {}).stages["pred"][0], name="mine", view="teacher_mixed"
    )
    with pytest.raises(UsageError, match=r"mine.*learns gold labels"):
        compose("minillm", {}, [written])


@pytest.mark.parametrize("objective", [NextRKL(), LongReturn()])
@pytest.mark.parametrize("method", ["kd", "gkd_onpolicy", "minillm"])
def test_its_parts_mean_nothing_on_other_texts(objective: Objective, method: str) -> None:
    options = {"kd": {"alpha": 1.0}} if method == "kd" else {}
    written = dataclasses.replace(soft(name="mine"), objective=objective)
    with pytest.raises(
        UsageError, match=r"mine.*both models write, which the view 'plain' does not"
    ):
        compose(method, options, [written])


@pytest.mark.parametrize("options", [{"alpha": 1.0}, {"alpha": -0.1}, {"clip": 0.0}])
def test_settings_that_mean_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"next_rkl|long_return"):
        compose("minillm", {"minillm": options})


def test_prompts_are_kept() -> None:
    with running(decoder(), [decoder(4)], TeacherMixed(0.5)) as (passes, _):
        made = passes.generate(questions(), tau=1.0, seed=1, teacher=0.5)
    for row, prompt in enumerate(prompts_of(questions())):
        assert made.inputs["input_ids"][row, : len(prompt)].tolist() == prompt.tolist()
