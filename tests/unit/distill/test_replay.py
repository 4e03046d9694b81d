"""A student learns from what it said before: which rows are kept, drawn, and how often."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.distill.test_operators import (
    RUN,
    Killed,
    StopAt,
    answers_of,
    decoder,
    questions,
    rows,
    running,
)
from toolchain.data.batching import Batch
from toolchain.data.masking import IGNORED
from toolchain.distill.checkpointing import tensors_of
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.operators import StudentReplay
from toolchain.distill.operators.replay import Replay
from toolchain.distill.records import Parts, Trained
from toolchain.distill.shapes import Unfit
from toolchain.distill.term import bind
from toolchain.distill.trainer import train
from toolchain.progress import Null


def batch(first: int, count: int, width: int) -> Batch:
    """Rows whose number says what is in them: row n is n, n + 1, ... and as long as it may be."""
    ids = torch.zeros(count, width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for b in range(count):
        length = width - b % 3
        ids[b, :length] = torch.arange(first + b, first + b + length)
        mask[b, :length] = 1
        labels[b, 1 : length - 1] = ids[b, 2:length]
    numbers = tuple(range(first, first + count))
    return Batch({"input_ids": ids, "attention_mask": mask}, labels, numbers)


def assert_whole(found: Batch, *, lengths: dict[int, int]) -> None:
    """Every row is the one its number says, with its own labels and nothing behind its end."""
    assert found.inputs["input_ids"].shape[1] == int(found.mask_BN.sum(-1).max())
    for b, number in enumerate(found.rows):
        length = int(found.mask_BN[b].sum())
        assert length == lengths[number]
        ids = found.inputs["input_ids"][b]
        assert ids[:length].tolist() == list(range(number, number + length))
        assert found.labels[b, 1 : length - 1].tolist() == ids[2:length].tolist()
        assert (found.labels[b, length - 1 :] == IGNORED).all()


def test_the_newest_rows_are_kept_and_come_back_whole() -> None:
    replay = Replay(0.5, 0.1, 0.1, capacity=5)
    assert not replay.full
    replay.keep(batch(10, 3, 6))
    assert not replay.full
    replay.keep(batch(20, 3, 9))
    assert replay.full
    assert replay.numbers_R.tolist() == [11, 12, 20, 21, 22]
    seen = set()
    for seed in range(20):
        found = replay.drawn(batch(90, 4, 5), torch.Generator().manual_seed(seed))
        assert len(set(found.rows)) == len(found.rows) == 4
        assert_whole(found, lengths={11: 5, 12: 4, 20: 9, 21: 8, 22: 7})
        seen |= set(found.rows)
    assert seen == {11, 12, 20, 21, 22}
    replay.keep(batch(30, 7, 4))
    assert replay.numbers_R.tolist() == [32, 33, 34, 35, 36]


def test_a_batch_larger_than_the_buffer_has_rows_twice() -> None:
    replay = Replay(0.5, 0.1, 0.1, capacity=3)
    replay.keep(batch(10, 3, 6))
    found = replay.drawn(batch(90, 7, 5), torch.Generator().manual_seed(0))
    assert len(found.rows) == 7
    assert set(found.rows) == {10, 11, 12}


def test_the_same_generator_draws_the_same_rows_also_from_a_stored_buffer() -> None:
    replay, other = Replay(0.5, 0.1, 0.1, capacity=9), Replay(0.5, 0.1, 0.1, capacity=9)
    replay.keep(batch(10, 9, 8))
    replay.judged(2.0)
    replay.judged(3.0)
    other.load_state_dict(replay.state_dict(), strict=True)
    assert torch.equal(other.phi, replay.phi)
    assert torch.equal(other.reference, replay.reference)
    draws = [r.drawn(batch(90, 4, 5), torch.Generator().manual_seed(3)) for r in (replay, other)]
    assert draws[0].rows == draws[1].rows
    assert torch.equal(draws[0].inputs["input_ids"], draws[1].inputs["input_ids"])
    other.keep(batch(20, 1, 8))
    assert replay.numbers_R.tolist() == list(range(10, 19))


def test_phi_rises_when_the_loss_has_risen_by_the_margin() -> None:
    replay = Replay(0.75, 0.1, 0.2, capacity=3)
    found = []
    # The reference is the first loss, and later the one that last raised phi.
    for loss in (2.0, 1.0, 2.1, 2.25, 2.3, 2.5, 9.0, 20.0):
        replay.judged(loss)
        found.append(round(float(replay.phi), 6))
    assert found == [0.75, 0.75, 0.75, 0.85, 0.85, 0.95, 1.0, 1.0]


class Desk:
    """Stands for the passes: writes down what was asked of the student."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.asked: list[tuple[float, int]] = []

    def memory(self, key: str) -> Replay:
        assert key == "student_replay"
        return self.replay

    def generate(self, given: Batch, *, tau: float, seed: int) -> Batch:
        self.asked.append((tau, seed))
        return batch(100 * len(self.asked), len(given.rows), 6)


def told(operator: StudentReplay, steps: int, *, filled: bool) -> list[str]:
    """What each step learned from: the data, new answers, or kept ones."""
    desk = Desk(operator.module())
    if filled:
        desk.replay.keep(batch(1, operator.capacity, 6))
    data, found = batch(50, 2, 5), []
    for step in range(steps):
        before = len(desk.asked)
        made = operator.prepare(data, desk, Moment(step=step, steps=steps, seed=4))  # type: ignore[arg-type]
        kept = set(desk.replay.numbers_R.tolist())
        new = len(desk.asked) > before
        assert made is data or set(made.rows) <= kept
        found.append("data" if made is data else "new" if new else "kept")
    assert len({seed for _, seed in desk.asked}) == len(desk.asked)
    return found


def test_new_answers_make_way_for_kept_ones_in_proportion_to_progress() -> None:
    found = told(StudentReplay(share=0.6, capacity=10), 4000, filled=True)
    for quarter in range(4):
        part = found[1000 * quarter : 1000 * (quarter + 1)]
        progress = (quarter + 0.5) / 4
        assert part.count("data") / 1000 == pytest.approx(0.4, abs=0.05)
        assert part.count("new") / 1000 == pytest.approx(0.6 * (1 - progress), abs=0.05)
        assert part.count("kept") / 1000 == pytest.approx(0.6 * progress, abs=0.05)


def test_until_the_buffer_is_full_every_answer_is_new() -> None:
    found = told(StudentReplay(share=1.0, capacity=40), 60, filled=False)
    assert found[:20] == ["new"] * 20
    assert "kept" in found[20:]


def test_without_a_share_only_the_data_speak() -> None:
    assert told(StudentReplay(), 50, filled=True) == ["data"] * 50


def test_what_is_kept_is_what_the_student_said() -> None:
    operator = StudentReplay(share=1.0, capacity=3)
    replay = operator.module()
    with running(decoder(), [decoder(4)], operator) as (passes, _):
        passes._memories = {"student_replay": replay}
        made = passes.prepared(questions(), Moment(step=0, steps=9, seed=1))
    assert answers_of(made) != answers_of(questions())
    again = replay.drawn(made, torch.Generator().manual_seed(0))
    order = [again.rows.index(number) for number in made.rows]
    assert answers_of(replace_rows(again, order)) == answers_of(made)


def replace_rows(found: Batch, order: list[int]) -> Batch:
    inputs = {name: tensor[order] for name, tensor in found.inputs.items()}
    return Batch(inputs, found.labels[order], tuple(found.rows[i] for i in order))


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_run_goes_on_with_the_rows_it_kept(stop: int, tmp_path: Path) -> None:
    settings = {"share": 0.8, "capacity": 6, "margin": 0.0}
    run_of = replace(RUN, metric="loss", keep_best=True, evals=4, lr=3e-2)

    def run(folder: str, progress: Null) -> tuple[Trained, dict[str, Tensor]]:
        student, teacher = decoder(2), decoder(4, seed=1)
        found = compose("distillm", {"distillm": settings})
        terms = tuple(bind(t, student.spec, teacher.spec) for t in found.stages["pred"])
        data, parts = rows("causal_lm"), Parts(operators=found.operators)
        work = tmp_path / folder
        done = train(student, [teacher], terms, parts, data, data, run_of, work, progress)
        return done, student.model.state_dict()

    whole, expected = run("whole", Null())
    with pytest.raises(Killed):
        run("cut", StopAt(stop))
    resumed, weights = run("cut", Null())
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed.points == whole.points
    kept, again = (
        tensors_of(tmp_path / name / "checkpoint.safetensors", "operators")
        for name in ("whole", "cut")
    )
    assert set(kept) == {f"student_replay.{name}" for name in Replay(0, 0, 0, 1).state_dict()}
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert len(kept["student_replay.ids_RN"]) == 6


def test_the_loss_on_dev_is_judged_before_the_first_step_and_at_each_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(Replay, "judged", lambda self, loss: heard.append(loss))  # noqa: ARG005
    student, teacher = decoder(2), decoder(4, seed=1)
    found = compose("distillm", {})
    terms = tuple(bind(t, student.spec, teacher.spec) for t in found.stages["pred"])
    data, parts = rows("causal_lm"), Parts(operators=found.operators)
    # Whatever the metric is: operators follow the loss.
    run = replace(RUN, metric="token_accuracy", keep_best=True, evals=4)
    done = train(student, [teacher], terms, parts, data, data, run, tmp_path, Null())
    assert len(done.evals) == 4
    assert len(heard) == 5
    assert all(0 < loss < 10 for loss in heard)


def test_settings_that_cannot_be_are_refused() -> None:
    causal = decoder().spec
    StudentReplay().check(causal, causal)
    for operator, said in (
        (StudentReplay(share=1.5), "share of sampled steps"),
        (StudentReplay(rise=-0.1), "rises by -0.1"),
        (StudentReplay(margin=-1.0), "when the loss does by -1"),
        (StudentReplay(capacity=0), "a buffer of 0 rows"),
        (StudentReplay(tau=0.0), "temperature is 0"),
    ):
        with pytest.raises(Unfit, match=said):
            operator.check(causal, causal)
    with pytest.raises(Unfit, match="the student is a model for classify"):
        StudentReplay().check(replace(causal, task="classify"), causal)
