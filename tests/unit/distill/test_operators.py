"""Operators on real tiny models: the views they make and the text they bring."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tests.unit.distill.lab import Killed, StopAt
from toolchain.data.batching import Batch, Rows
from toolchain.distill import extract, objectives, reduction
from toolchain.distill.capture import Recorder
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.generation import beams, end_tokens, prompts_of, sampled, with_answers
from toolchain.distill.operators import AdvEmbed, Interchange, Operator, StudentGenerate
from toolchain.distill.passes import StepPasses
from toolchain.distill.records import Parts, StageRun, Trained
from toolchain.distill.shapes import Unfit
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.distill.term import Term, bind
from toolchain.distill.trainer import train
from toolchain.errors import UsageError
from toolchain.models.family import family_of
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Null
from toolchain.spec import ModelSpec

CPU = torch.device("cpu")
IGNORED = -100


def encoder(layers: int, width: int = 24, seed: int = 0) -> TrainingModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=32, num_labels=3, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    family = family_of("bert")
    spec = family.spec(config.to_dict(), task="classify", num_labels=3)
    return TrainingModel(model=BertForSequenceClassification(config), family=family, spec=spec)


def decoder(layers: int = 2, seed: int = 0, width: int = 16) -> TrainingModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32, max_position_embeddings=24,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    family = family_of("llama")
    spec = family.spec(config.to_dict(), task="causal_lm")
    return TrainingModel(model=LlamaForCausalLM(config), family=family, spec=spec)


def sentences() -> Batch:
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 50, (4, 11), generator=g)
    mask = torch.ones_like(ids)
    mask[1, 7:] = mask[2, 4:] = 0
    labels = torch.tensor([0, 2, 1, 1])
    return Batch({"input_ids": ids * mask, "attention_mask": mask}, labels, (0, 1, 2, 3))


def questions() -> Batch:
    """Two prompts with answers, and one row that asks for nothing."""
    ids = torch.tensor([[1, 9, 8, 7, 20, 21, 2], [1, 5, 30, 2, 0, 0, 0], [1, 6, 6, 6, 6, 0, 0]])
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 5 + [0] * 2])
    labels = torch.full_like(ids, IGNORED)
    labels[0, 3:6] = ids[0, 4:]
    labels[1, 1:3] = ids[1, 2:4]
    return Batch({"input_ids": ids, "attention_mask": mask}, labels, (4, 5, 6))


@contextlib.contextmanager
def running(
    student: TrainingModel,
    teachers: list[TrainingModel],
    operator: Operator | None,
    terms: tuple[Term, ...] = (),
) -> Iterator[tuple[StepPasses, Distiller]]:
    """The passes of one stage, as the training loop makes them."""
    bound = tuple(
        bind(term, student.spec, teacher.spec, i)
        for term in terms
        for i, teacher in enumerate(teachers)
        if i == 0 or term.extract.kind != "labels"
    )
    operators = [operator] if operator else []

    def wanted(spec: ModelSpec, side: str) -> frozenset[Request]:
        own = [op.requests(spec) for op in operators]
        return frozenset().union(*own, *(b.requests(side) for b in bound))  # type: ignore[arg-type]

    distiller = Distiller(bound)
    readers = [
        OnlineTeacher(t, wanted(t.spec, "teacher"), device=CPU, bf16=False) for t in teachers
    ]
    recorder = Recorder(
        student.model, student.family, student.spec, wanted(student.spec, "student")
    )
    student.model.train()
    with recorder:
        yield (
            StepPasses(
                student.model, recorder, student.spec, readers, distiller, operators,
                lambda _: contextlib.nullcontext(), student.vocabulary,
            ),
            distiller,
        )  # fmt: skip
    for reader in readers:
        reader.close()


def soft(view: str = "plain", name: str = "soft") -> Term:
    kl = objectives.KL(tau=2.0)
    return Term(name, extract.logits, kl, reduction.mean_logits, view=view)


# --- interchange


def test_an_empty_span_leaves_the_counterfactual_loss_equal_to_kd() -> None:
    terms = (soft(), soft("interchange", "counter"))
    with running(encoder(2), [encoder(4, 32)], Interchange(span=0.0), terms) as (passes, distiller):
        seen = passes.seen(sentences(), Moment(step=3, steps=9, seed=1))
        values = distiller(seen, passes.denominators(seen))
    assert values["counter"].item() == values["soft"].item()


def test_a_span_changes_both_models_and_gradients_flow_through_what_is_copied() -> None:
    terms = (soft(), soft("interchange", "counter"))
    student = encoder(2)
    with running(student, [encoder(4, 32)], Interchange(), terms) as (passes, distiller):
        seen = passes.seen(sentences(), Moment(step=3, steps=9, seed=1))
        plain, other = seen["plain"], seen["interchange"]
        for a, b in ((plain.student, other.student), (plain.teachers[0], other.teachers[0])):
            assert (a.get(extract.logits, 0) - b.get(extract.logits, 0)).abs().max() > 1e-3
        distiller(seen, passes.denominators(seen))["counter"].backward()
    assert all(p.grad is not None for p in student.model.parameters())


@pytest.mark.parametrize("align", ["full", "middle", "late"])
def test_the_span_holds_the_source_and_everything_else_the_base(align: str) -> None:
    operator = Interchange(align=align)  # type: ignore[arg-type]
    batch, student, teacher = sentences(), encoder(2), encoder(5, 32)
    lengths = batch.mask_BN.sum(-1)
    blocks = set()
    for step in range(12):
        with running(student, [teacher], operator, (soft("interchange"),)) as (passes, _):
            seen = passes.seen(batch, Moment(step=step, steps=99, seed=1))
        sides = [(s.student, s.teachers[0]) for s in (seen["plain"], seen["interchange"])]
        spans = []
        for side, spec in enumerate((student.spec, teacher.spec)):
            plain, other = sides[0][side], sides[1][side]
            for request in sorted(operator.requests(spec), key=lambda r: r.layer):
                before, after = plain.tensor(request), other.tensor(request)
                from_source = (after == before.roll(1, 0)).all(-1)
                if from_source.any():
                    spans.append(from_source)
                    blocks.add((side, request.layer))
                    break
        assert len(spans) == 2
        assert torch.equal(*spans)
        shorter = torch.minimum(lengths, lengths.roll(1, 0))
        assert torch.equal(spans[0].sum(-1), (0.3 * shorter).long().clamp(min=1))
        for row, length in zip(spans[0], shorter, strict=True):
            places = row.nonzero().flatten()
            assert places.max() < length
            assert places.max() - places.min() + 1 == len(places)
    lowest = {"full": {(0, 1), (0, 2), (1, 1), (1, 4)}, "middle": {(0, 2), (1, 3)}}
    assert blocks == lowest.get(align, {(0, 1), (1, 4)})


def test_the_same_step_draws_the_same_exchange() -> None:
    operator = Interchange()
    drawn = []
    for _ in range(2):
        with running(encoder(2), [encoder(4)], operator, (soft("interchange"),)) as (passes, _):
            seen = passes.seen(sentences(), Moment(step=5, steps=9, seed=7))
            drawn.append(seen["interchange"].teachers[0].get(extract.logits, 0))
    assert torch.equal(*drawn)


def test_every_teacher_is_exchanged() -> None:
    teachers = [encoder(4, seed=1), encoder(2, 32, seed=2)]
    with running(encoder(2), teachers, Interchange(), (soft("interchange"),)) as (passes, _):
        seen = passes.seen(sentences(), Moment(step=3, steps=9, seed=1))
    for before, after in zip(seen["plain"].teachers, seen["interchange"].teachers, strict=True):
        assert not torch.equal(before.get(extract.logits, 0), after.get(extract.logits, 0))


def test_a_student_deeper_than_its_teacher_cannot_be_aligned() -> None:
    with pytest.raises(Unfit, match="the student has 4, the teacher 2"):
        Interchange().check(encoder(4).spec, encoder(2).spec)
    with pytest.raises(Unfit, match=r"the span is 1\.5 of a sentence"):
        Interchange(span=1.5).check(encoder(2).spec, encoder(2).spec)


def test_diito_weighs_its_four_terms_alike_in_both_stages() -> None:
    stages = compose("diito", {}).stages
    assert {stage: len(terms) for stage, terms in stages.items()} == {"general": 4, "pred": 4}
    assert {t.weight for terms in stages.values() for t in terms} == {0.25}
    assert [t.name for t in stages["pred"] if t.view == "interchange"] == ["diito/counterfactual"]


# --- in the loop


RUN = StageRun(
    name="pred", steps=8, batch_size=4, lr=3e-3, warmup=0.1, weight_decay=0.0, clip=1.0, evals=1,
    keep_best=False, bf16=False, seed=5, metric="accuracy", checkpoint_seconds=0.0,
)  # fmt: skip


def rows(task: str) -> Rows:
    generator = np.random.default_rng(0)
    ids = [generator.integers(5, 40, size=n) for n in generator.integers(6, 12, size=16)]
    features = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    labels: object = np.arange(16) % 3
    if task == "causal_lm":
        labels = tuple(
            np.append(np.where(np.arange(1, len(r)) < 3, -100, r[1:]), -100) for r in ids
        )
    return Rows(features=features, labels=labels, pad_id=0, truncated=0, task=task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "task"),
    [
        ("diito", "classify"),
        ("gkd_onpolicy", "causal_lm"),
        ("distillm", "causal_lm"),
        ("minillm", "causal_lm"),
    ],
)
def test_training_learns_and_goes_on_to_the_bit_after_a_kill(
    method: str, task: str, tmp_path: Path
) -> None:
    make = encoder if task == "classify" else decoder

    def run(folder: str, progress: Null) -> tuple[Trained, dict[str, Tensor]]:
        student, teacher = make(2), make(4, seed=1)
        found = compose(method, {})
        terms = tuple(bind(t, student.spec, teacher.spec) for t in found.stages["pred"])
        data = rows(task)
        parts = Parts(operators=found.operators)
        done = train(student, [teacher], terms, parts, data, data, RUN, tmp_path / folder, progress)
        return done, student.model.state_dict()

    whole, expected = run("whole", Null())
    with pytest.raises(Killed):
        run("cut", StopAt(5))
    resumed, weights = run("cut", Null())
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed.points == whole.points
    losses = [point["loss"] for point in whole.points]
    assert sum(losses[-3:]) < sum(losses[:3])


# --- adv_embed


def test_embeddings_move_by_one_along_the_gradient_of_the_loss() -> None:
    student, batch = encoder(2), sentences()
    with running(student, [encoder(4)], AdvEmbed(), (soft("adv_embed"),)) as (passes, distiller):
        moment = Moment(step=1, steps=9)
        seen = passes.seen(batch, moment)
        before = seen["plain"].student.tensor(Request("emb"))
        after = seen["adv_embed"].student.tensor(Request("emb"))
        loss = distiller({"plain": seen["plain"], "adv_embed": seen["plain"]}, {"soft": 4.0})
        (slope,) = torch.autograd.grad(loss["soft"], before)
    moved = (after - before).detach()
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.ones(4))
    slope = slope * batch.mask_BN[..., None]
    torch.testing.assert_close(
        moved, slope / slope.flatten(1).norm(dim=1)[:, None, None], rtol=1e-4, atol=1e-5
    )
    assert moved[~batch.mask_BN.bool()].abs().max() == 0


def test_the_moved_pass_has_a_larger_loss_and_gives_the_update() -> None:
    student = encoder(2)
    terms = (soft("adv_embed"), soft(name="plain"))
    with running(student, [encoder(4)], AdvEmbed(size=0.1), terms) as (passes, distiller):
        seen = passes.seen(sentences(), Moment(step=1, steps=9))
        values = distiller(seen, passes.denominators(seen))
        assert values["soft"] > values["plain"]
        values["soft"].backward()
    assert all(p.grad is not None for p in student.model.parameters())
    teacher = seen["adv_embed"].teachers[0]
    assert torch.equal(
        teacher.get(extract.logits, 0), seen["plain"].teachers[0].get(extract.logits, 0)
    )


def test_terms_of_the_plain_view_do_not_steer_the_move() -> None:
    moves = []
    for extra in ((), (soft(name="other"),)):
        terms = (soft("adv_embed"), *extra)
        with running(encoder(2), [encoder(4)], AdvEmbed(), terms) as (passes, _):
            seen = passes.seen(sentences(), Moment(step=1, steps=9))
            moves.append(seen["adv_embed"].student.tensor(Request("emb")).detach())
    assert torch.equal(*moves)


# --- student_generate


def answers_of(batch: Batch) -> list[list[int]]:
    return [row[row != IGNORED].tolist() for row in batch.labels]


def test_prompts_end_before_the_first_supervised_token_and_answers_take_their_place() -> None:
    batch = questions()
    prompts = prompts_of(batch)
    assert [p.tolist() for p in prompts] == [[1, 9, 8, 7], [1, 5], [1, 6, 6, 6, 6]]
    assert answers_of(batch) == [[20, 21, 2], [30, 2], []]
    again = with_answers(
        batch, prompts, [torch.tensor(a, dtype=torch.long) for a in answers_of(batch)]
    )
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(again.inputs[name], batch.inputs[name])
    assert torch.equal(again.labels, batch.labels)


def test_sampled_answers_follow_from_the_seed_and_leave_the_generators_alone() -> None:
    student = decoder()
    with running(student, [decoder(4)], StudentGenerate()) as (passes, _):
        before = torch.get_rng_state()
        first, second, third = (
            passes.generate(questions(), tau=1.0, seed=seed) for seed in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert student.model.training
    assert torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])
    assert answers_of(first) != answers_of(third)
    old, new = questions(), first
    for row, prompt in enumerate(prompts_of(old)):
        assert new.inputs["input_ids"][row, : len(prompt)].tolist() == prompt.tolist()
    assert new.labels.shape[1] <= old.labels.shape[1]
    assert answers_of(new)[2] == []
    assert new.rows == old.rows


def test_what_is_said_of_a_row_does_not_depend_on_what_stands_beside_it() -> None:
    student = decoder(seed=4)
    prompts = [torch.tensor(ids) for ids in ([1, 9, 8, 7, 6], [1, 12], [1, 5, 30])]

    def said(*numbers: int) -> list[list[int]]:
        chosen = [prompts[n] for n in numbers]
        found = sampled(student.model, chosen, tau=1.0, seed=3, max_new=9, numbers=numbers)
        return [ids.tolist() for ids in found]

    together = said(0, 1, 2)
    assert [said(n)[0] for n in range(3)] == together
    assert said(2, 0) == [together[2], together[0]]
    first, other = sampled(student.model, [prompts[0]] * 2, tau=1.0, seed=3, max_new=9)
    assert first.tolist() != other.tolist()


def test_sampling_follows_the_students_distribution() -> None:
    student = decoder(seed=4)
    prompt = torch.tensor([1, 9, 8])
    with torch.no_grad():
        logits = student.model.eval()(input_ids=prompt[None]).logits[0, -1]
    for tau in (0.5, 1.0):
        counts = torch.zeros(40)
        for answer in sampled(student.model, [prompt] * 4000, tau=tau, seed=0, max_new=1):
            counts[answer[0]] += 1
        expected = (logits / tau).softmax(-1)
        assert (counts / 4000 - expected).abs().max() < 0.03


def test_padding_on_the_left_does_not_change_what_is_said() -> None:
    student = decoder(seed=4)
    long, short = torch.tensor([1, 9, 8, 7, 6, 5]), torch.tensor([1, 12])
    together = beams(student.model, [long, short], width=3, max_new=5)
    alone = [beams(student.model, [prompt], width=3, max_new=5)[0] for prompt in (long, short)]
    assert [[a.tolist() for a in row] for row in together] == [
        [a.tolist() for a in row] for row in alone
    ]


def test_an_answer_ends_with_its_end_token() -> None:
    student = decoder(seed=1)
    with torch.no_grad():
        # Every token is as likely as any other.
        student.model.lm_head.weight.zero_()
    ends = end_tokens(student.model)
    assert ends == (2,)
    said = sampled(student.model, [torch.tensor([1, 5])] * 50, tau=1.0, seed=3, max_new=20)
    ended = [answer.tolist() for answer in said if answer[-1] == 2]
    assert 5 < len(ended) < 45
    assert all(2 not in ids[:-1] for ids in ended)
    assert all(len(answer) == 20 for answer in said if answer[-1] != 2)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 40), (0.5, None)])
def test_the_share_of_steps_decides_how_often_the_student_speaks(
    share: float, expected: int | None
) -> None:
    class Counted:
        calls: list[tuple[float, int]] = []

        def generate(self, batch: Batch, *, tau: float, seed: int) -> Batch:
            self.calls.append((tau, seed))
            return batch

    counted = Counted()
    counted.calls = []
    operator = StudentGenerate(share, 0.9)
    for step in range(40):
        operator.prepare(questions(), counted, Moment(step=step, steps=40, seed=2))  # type: ignore[arg-type]
    if expected is None:
        assert 10 < len(counted.calls) < 30
    else:
        assert len(counted.calls) == expected
    assert {tau for tau, _ in counted.calls} <= {0.9}
    assert len({seed for _, seed in counted.calls}) == len(counted.calls)


def test_no_gradient_flows_through_the_sampling_but_through_what_is_learned_from_it() -> None:
    student = decoder()
    operator = StudentGenerate(share=1.0)
    terms = compose("gkd_onpolicy", {}).stages["pred"]
    with running(student, [decoder(4, seed=9)], operator, terms) as (passes, distiller):
        moment = Moment(step=0, steps=5, seed=1)
        batch = passes.prepared(questions(), moment)
        seen = passes.seen(batch, moment)
        assert answers_of(batch) != answers_of(questions())
        values = distiller(seen, passes.denominators(seen))
        (value,) = values.values()
        value.backward()
    assert value > 0
    assert all(p.grad is not None for p in student.model.parameters())


def test_only_decoders_can_speak() -> None:
    spec = encoder(2).spec
    with pytest.raises(Unfit, match="the student is a model for classify"):
        StudentGenerate().check(spec, spec)
    causal = decoder().spec
    with pytest.raises(Unfit, match="the teacher is a model for classify"):
        StudentGenerate().check(causal, spec)
    with pytest.raises(Unfit, match="temperature is 0"):
        StudentGenerate(tau=0.0).check(causal, causal)
    StudentGenerate().check(causal, causal)


@pytest.mark.parametrize("name", ["gkd_onpolicy", "distillm"])
def test_gold_labels_are_refused_beside_answers_nobody_labelled(name: str) -> None:
    with pytest.raises(UsageError, match=r"kd/labels.*learns gold labels"):
        compose(f"kd+{name}", {})
    assert compose(f"kd+{name}", {"kd": {"alpha": 1.0}}).operators


def test_two_operators_are_refused() -> None:
    with pytest.raises(UsageError, match="both change the batch"):
        compose("distillm+gkd_onpolicy", {})


def test_a_view_that_is_not_made_in_the_terms_stage_is_refused() -> None:
    written = replace(soft("interchange"), name="mine")
    with pytest.raises(UsageError, match="reads the view 'interchange', which nothing makes"):
        compose("kd", {}, [written])
    assert compose("diito", {}, [written]).stages["pred"]
    with pytest.raises(UsageError, match="student_generate', which nothing makes"):
        compose("gkd_onpolicy", {}, [soft("student_generate")])


def test_distillm_offers_both_skews() -> None:
    (term,) = compose("distillm", {"distillm": {"skew": "skl"}}).stages["pred"]
    assert isinstance(term.objective, objectives.SKL)
    (term,) = compose("distillm", {}).stages["pred"]
    assert isinstance(term.objective, objectives.SRKL)


# --- a real decoder


@pytest.mark.shared
def test_the_story_teller_goes_on_telling(shared: Path) -> None:
    folder = shared / "models" / "stories260k"
    model = load_model(folder, "causal_lm")
    tokenizer = load_tokenizer(folder)
    prompts = [torch.tensor(tokenizer(t)["input_ids"]) for t in ("Once upon a time", "Lily saw")]
    found = beams(model, prompts, width=3, max_new=24)
    for prompt, answers in zip(prompts, found, strict=True):
        values = [likelihood(model, prompt, answer) for answer in answers]
        assert values == sorted(values, reverse=True)
        ((greedy,),) = beams(model, [prompt], width=1, max_new=24)
        assert values[0] >= likelihood(model, prompt, greedy) - 1e-6
        assert len({tuple(answer.tolist()) for answer in answers}) == 3
    text = tokenizer.decode(found[0][0])
    assert text.startswith(", there was a little")
    said = [sampled(model, prompts, tau=0.9, seed=seed, max_new=24) for seed in (0, 0, 1)]
    first, again, other = ([answer.tolist() for answer in answers] for answers in said)
    assert first == again != other


def likelihood(model: LlamaForCausalLM, prompt: Tensor, answer: Tensor) -> float:
    """Mean log-likelihood per token, what beam search ranks by."""
    ids = torch.cat([prompt, answer])
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, answer[:, None]).mean())
