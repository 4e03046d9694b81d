"""DSKD: states of one model read by the head of the other, against the formula written out."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.distill.conftest import TEACHER
from tests.unit.distill.test_operators import (
    RUN,
    Killed,
    StopAt,
    decoder,
    encoder,
    questions,
    rows,
    running,
    sentences,
)
from toolchain.data.masking import IGNORED
from toolchain.distill import extract, transforms
from toolchain.distill.capture import Recorder
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.positions import positions_of
from toolchain.distill.records import Parts, Trained
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.errors import UsageError
from toolchain.progress import Null


def wide(seed: int = 3) -> TrainingModel:
    """A teacher of another width than the students here."""
    return decoder(3, seed=seed, width=48)


def parts_of(text: str = "dskd", **options: object):
    return compose(text, {"dskd": options} if options else {}).stages["pred"]


def maps(distiller: Distiller) -> tuple[Tensor, Tensor]:
    """The weights of both projections: to the student's width, to the teacher's."""
    learned = distiller.learned
    return learned["dskd_teacher_0"].weight, learned["dskd_student_0"].weight  # type: ignore[return-value]


def test_the_states_are_what_the_head_reads_at_supervised_positions() -> None:
    model = decoder(2, seed=4)
    batch = questions()
    kept = frozenset({Request("states")})
    with Recorder(model.model, model.family, model.spec, kept) as recorder:
        at = positions_of("causal_lm", batch.labels)
        logits_BNV = model.model(**batch.inputs).logits
        known = recorder.take(logits_BNV, at.rows)
    states = known.get(extract.states, 0)
    assert states.shape == (int((batch.labels != IGNORED).sum()), model.spec.width)
    assert known.decoder is not None
    torch.testing.assert_close(known.decoder(states, learns=True), known.get(extract.logits, 0))


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_three_terms_are_those_of_the_paper(tau: float) -> None:
    student, teacher, batch = decoder(2), wide(), questions()
    with running(student, [teacher], None, parts_of(tau=tau)) as (passes, distiller):
        seen = passes.seen(batch, Moment(step=0, steps=5))
        values = distiller(seen, passes.denominators(seen))
        at = batch.labels != IGNORED
        labels = batch.labels[at]
        h, t = (
            m.model(**batch.inputs, output_hidden_states=True).hidden_states[-1][at]
            for m in (student, teacher)
        )
        heads = [m.model.lm_head.weight for m in (student, teacher)]
        to_student, to_teacher = maps(distiller)
    z_s, z_t = h @ heads[0].T, t @ heads[1].T
    z_ts, z_st = t @ to_student.T @ heads[0].T, h @ to_teacher.T @ heads[1].T

    def kl(p: Tensor, q: Tensor) -> Tensor:
        log_p, log_q = (p / tau).log_softmax(-1), (q / tau).log_softmax(-1)
        return tau**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    expected = {
        "dskd/student_space": kl(z_ts, z_s),
        "dskd/projection": F.cross_entropy(z_ts, labels),
        "dskd/teacher_space": kl(z_t, z_st),
        "dskd/labels": F.cross_entropy(z_s, labels),
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("term", "student", "head", "to_student", "to_teacher"),
    [
        ("student_space", True, True, False, False),
        ("projection", False, False, True, False),
        ("teacher_space", True, False, False, True),
    ],
)
def test_each_term_trains_what_it_should(
    term: str, student: bool, head: bool, to_student: bool, to_teacher: bool
) -> None:
    side, teacher = decoder(2), wide()
    (chosen,) = (t for t in parts_of() if t.name == f"dskd/{term}")
    both = [t for t in parts_of() if t.name.startswith("dskd/")]
    with running(side, [teacher], None, tuple(both)) as (passes, distiller):
        seen = passes.seen(questions(), Moment(step=0, steps=5))
        distiller(seen, passes.denominators(seen))[chosen.name].backward()
    body = [p for n, p in side.model.named_parameters() if not n.startswith("lm_head")]
    assert any(p.grad is not None for p in body) == student
    assert (side.model.lm_head.weight.grad is not None) == head
    first, second = maps(distiller)
    assert (first.grad is not None, second.grad is not None) == (to_student, to_teacher)
    assert all(p.grad is None for p in teacher.model.parameters())


def test_a_copy_of_the_teacher_differs_from_it_in_nothing_but_the_labels() -> None:
    student, teacher = decoder(2, seed=5), decoder(2, seed=5)
    with running(student, [teacher], None, parts_of()) as (passes, distiller):
        seen = passes.seen(questions(), Moment(step=0, steps=5))
        values = distiller(seen, passes.denominators(seen))
    for name in ("dskd/student_space", "dskd/teacher_space"):
        assert values[name].item() == pytest.approx(0, abs=1e-6)
    assert values["dskd/projection"].item() == pytest.approx(values["dskd/labels"].item())


def test_logits_in_pieces_are_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for piece in (1 << 23, 100):
        monkeypatch.setattr("toolchain.distill.distiller.PIECE", piece)
        student, teacher = decoder(2), wide()
        torch.manual_seed(0)
        with running(student, [teacher], None, parts_of()) as (passes, distiller):
            seen = passes.seen(questions(), Moment(step=0, steps=5))
            values = distiller(seen, passes.denominators(seen))
            distiller.total(values, Moment()).backward()
        found.append((values, [p.grad for p in student.model.parameters()], maps(distiller)))
    (whole, slopes, projections), (parts, others, more) = found
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])
    for a, b in zip(slopes, others, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(projections, more, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_classifiers_share_a_space_too() -> None:
    student, teacher = encoder(2), encoder(4, 32)
    with running(student, [teacher], None, parts_of()) as (passes, distiller):
        seen = passes.seen(sentences(), Moment(step=0, steps=5))
        values = distiller(seen, passes.denominators(seen))
        distiller.total(values, Moment()).backward()
    assert all(torch.isfinite(value) for value in values.values())
    assert all(p.grad is not None for p in student.model.parameters())


def test_vocabularies_may_differ_in_size() -> None:
    small = TEACHER.reshaped(layers=2)
    causal = dataclasses.replace(TEACHER, task="causal_lm", causal=True)
    few = dataclasses.replace(small, task="causal_lm", causal=True, vocab=30)
    for term in parts_of():
        bind(term, few, causal)
    (soft, _) = compose("kd", {}).stages["pred"]
    with pytest.raises(UsageError, match="the student has 30"):
        bind(soft, few, causal)


@pytest.mark.parametrize("task", ["mask_lm", "multi_label", "regress"])
def test_tasks_without_one_state_per_answer_are_refused(task: str) -> None:
    spec = dataclasses.replace(TEACHER, task=task)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"a model for {task} does not read one state per answer"):
        bind(parts_of()[0], spec.reshaped(layers=2), spec)


def test_states_are_not_decoded_by_a_head_that_reads_another_width() -> None:
    s = Shape(positions="logits", features=16, head=(16, 5))
    t = Shape(positions="logits", features=24, head=(24, 5))
    with pytest.raises(Unfit, match="student's head reads 16 features, the teacher's states have"):
        transforms.Decode("student").resolve(s, t)
    with pytest.raises(Unfit, match="only states can be decoded"):
        transforms.Decode("student").resolve(Shape(positions="logits", features=5), t)
    with pytest.raises(Unfit, match="it decodes one side"):
        transforms.Decode("student", side="both").resolve(s, s)
    assert transforms.Decode("teacher").resolve(s, t).shape(t).features == 5


def test_states_at_tokens_of_another_tokenizer_are_refused() -> None:
    causal = dataclasses.replace(TEACHER, task="causal_lm", causal=True)
    other = dataclasses.replace(causal, tokenizer="another")
    with pytest.raises(UsageError, match="token by token"):
        bind(parts_of()[0], causal.reshaped(layers=2), other)


def test_training_lowers_the_loss_and_goes_on_to_the_bit_after_a_kill(tmp_path: Path) -> None:
    run_of = dataclasses.replace(RUN, steps=16)

    def run(folder: str, progress: Null) -> tuple[Trained, dict[str, Tensor]]:
        student, teacher = decoder(2), wide()
        terms = tuple(bind(t, student.spec, teacher.spec) for t in parts_of())
        data, work = rows("causal_lm"), tmp_path / folder
        done = train(student, [teacher], terms, Parts(), data, data, run_of, work, progress)
        return done, student.model.state_dict()

    whole, expected = run("whole", Null())
    with pytest.raises(Killed):
        run("cut", StopAt(5))
    resumed, weights = run("cut", Null())
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed.points == whole.points
    for name in ("student_space", "projection", "teacher_space"):
        curve = [point["parts"][f"dskd/{name}"] for point in whole.points]
        assert sum(curve[-4:]) < sum(curve[:4]), name
    # What trains a projection alone has no part of the student's gradient to be warned of.
    shares = whole.gradient_shares[0]
    assert "dskd/projection" not in shares
    assert {"dskd/student_space", "dskd/teacher_space", "dskd/labels"} <= set(shares)
