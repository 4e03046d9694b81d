import gc
from collections import Counter, defaultdict

import numpy as np
import pytest

from toolchain.bench import clock
from toolchain.bench.loads import fixed_length, task_lengths
from toolchain.bench.schedule import orders
from toolchain.measurement import Load
from toolchain.runtimes.runtime import runtimes


class Recording:
    """A real session that also keeps what it was fed and whether the collector was on."""

    def __init__(self, session):
        self.session, self.fed, self.collector = session, [], set()

    def run(self, feed):
        self.fed.append(feed["input_ids"].tobytes())
        self.collector.add(gc.isenabled())
        return self.session.run(feed)

    def close(self):
        self.session.close()


@pytest.fixture
def sessions(onnx_file):
    open_session = runtimes.get("onnxruntime")
    # As the worker does, so that collecting between blocks is quick.
    gc.freeze()
    yield {
        name: Recording(
            open_session(onnx_file(name, seed=seed), threads=1, provider="CPUExecutionProvider")
        )
        for seed, name in enumerate("abc")
    }
    gc.unfreeze()


def timed(sessions, feeds, rounds=6, **changes):
    asked = {"tokens": 8, "min_seconds": 0.02, "min_runs": 30, "warmup": 2, **changes}
    ticks = []
    blocks = clock.alternate(
        sessions, Load(**asked), feeds, rounds, finished=lambda: ticks.append(None)
    )
    assert len(ticks) == len(blocks)
    return blocks


def test_blocks_alternate_in_the_planned_order(sessions, rows):
    blocks = timed(sessions, fixed_length(rows, 8, 4, 0))
    names = [block.contender for block in blocks]
    rounds = [names[start : start + 3] for start in range(0, len(names), 3)]
    planned = [["abc"[place] for place in order] for order in orders(3, 6)]
    assert rounds == planned * (len(rounds) // 6)
    assert [block.round for block in blocks] == [n for n in range(len(rounds)) for _ in range(3)]


def test_every_contender_gets_the_runs_and_the_seconds_asked(sessions, rows):
    samples = defaultdict(list)
    for block in timed(sessions, fixed_length(rows, 8, 4, 0)):
        samples[block.contender] += block.samples_ns
    for taken in samples.values():
        assert len(taken) >= 30
        assert sum(taken) >= 0.02e9
        assert min(taken) > 0


def test_all_contenders_are_fed_the_same_rows_equally_often(sessions, rows):
    feeds = task_lengths(rows, 8, 0)
    blocks = timed(sessions, feeds, rounds=4, tokens="task", warmup=0, min_seconds=0.001)
    for name, session in sessions.items():
        runs = sum(len(block.samples_ns) for block in blocks if block.contender == name)
        # What was not measured calibrated: it came first.
        measured = Counter(session.fed[len(session.fed) - runs :])
        assert set(measured) == {feed["input_ids"].tobytes() for feed in feeds}
        assert len(set(measured.values())) == 1


def test_within_a_round_all_contenders_answer_the_same_feeds(sessions, rows):
    feeds = task_lengths(rows, 8, 0)
    starts = defaultdict(dict)
    fed = {name: len(session.fed) for name, session in sessions.items()}
    order = []

    def finished():
        order.append({name: len(session.fed) for name, session in sessions.items()})

    load = Load(tokens="task", min_seconds=0.001, min_runs=8, warmup=0)
    blocks = clock.alternate(sessions, load, feeds, 4, finished=finished)
    for block, after in zip(blocks, order, strict=True):
        mine = sessions[block.contender].fed
        run = mine[after[block.contender] - len(block.samples_ns) : after[block.contender]]
        starts[block.round][block.contender] = set(run)
    assert fed == dict.fromkeys(sessions, 0)
    for by_contender in starts.values():
        assert by_contender["a"] == by_contender["b"] == by_contender["c"]


def test_a_contender_with_feeds_of_its_own_answers_these_alone(sessions, rows):
    feeds, other = task_lengths(rows, 8, 0), fixed_length(rows, 6, 5, 3)
    load = Load(tokens="task", min_seconds=0.001, min_runs=8, warmup=1)
    clock.alternate(sessions, load, feeds, 4, finished=lambda: None, own={"b": other})
    for name, session in sessions.items():
        asked = other if name == "b" else feeds
        assert set(session.fed) == {feed["input_ids"].tobytes() for feed in asked}


def test_every_block_is_warmed_up_by_runs_that_are_not_measured(sessions, rows):
    runs = []
    load = Load(tokens=8, min_seconds=0.5, min_runs=10, warmup=5)
    blocks = clock.alternate(
        sessions,
        load,
        fixed_length(rows, 8, 4, 0),
        2,
        finished=lambda: runs.append({name: len(s.fed) for name, s in sessions.items()}),
    )
    for before, after, block in zip(runs, runs[1:], blocks[1:], strict=False):
        ran = after[block.contender] - before[block.contender]
        assert ran == 5 + len(block.samples_ns)


def test_the_collector_rests_inside_blocks_and_works_again_after(sessions, rows):
    before = gc.isenabled()
    timed(sessions, fixed_length(rows, 8, 4, 0))
    assert gc.isenabled() == before
    assert all(False in session.collector for session in sessions.values())


def test_the_collector_works_again_after_a_failed_block(sessions, rows):
    wrong = [{**feed, "input_ids": np.full((1, 8), 9999)} for feed in fixed_length(rows, 8, 4, 0)]
    with pytest.raises(Exception, match="out of data bounds"):
        timed(sessions, wrong)
    assert gc.isenabled()


def test_reading_the_clock_costs_something_but_not_a_run():
    assert 0 < clock.timer_ns() < 100_000
