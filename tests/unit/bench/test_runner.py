import json
import sys

import numpy as np
import psutil
import pytest
from transformers import BertConfig, BertForSequenceClassification

from toolchain.bench.loads import fixed_length, task_lengths
from toolchain.bench.runner import Contender, time_contenders
from toolchain.bench.schedule import orders
from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.measurement import Load

ROUNDS = 4


def load(tokens=8, **changes):
    return Load(**{"tokens": tokens, "min_seconds": 0.02, "min_runs": 40, "warmup": 2, **changes})


@pytest.fixture
def contenders(onnx_file):
    return [
        Contender(name, "onnxruntime", onnx_file(name, seed=seed))
        for seed, name in enumerate(["first", "second"])
    ]


@pytest.fixture
def run(tmp_path, heard):
    def time(contenders, cases, *, progress=None, rounds=ROUNDS):
        return time_contenders(
            contenders,
            cases,
            target="host",
            fidelity="measured",
            threads=1,
            provider="CPUExecutionProvider",
            rounds=rounds,
            work=tmp_path / "work",
            progress=progress or heard(),
        )

    return time


def result_file(tmp_path, number=0):
    return tmp_path / "work" / f"load-{number}.json"


def test_a_model_of_fewer_tokens_is_timed_on_feeds_of_its_own(onnx_file, rows, tmp_path, heard):
    small = [{**row, "input_ids": np.minimum(row["input_ids"], 4)} for row in rows]
    found = time_contenders(
        [
            Contender("small", "onnxruntime", onnx_file("small", vocab=5)),
            Contender("large", "onnxruntime", onnx_file("large")),
        ],
        [(load(), fixed_length(rows, 8, 4, 0)), (load("task"), task_lengths(rows, 8, 0))],
        target="host",
        fidelity="measured",
        threads=1,
        provider="CPUExecutionProvider",
        rounds=ROUNDS,
        work=tmp_path / "work",
        progress=heard(),
        own={"small": [fixed_length(small, 8, 4, 0), task_lengths(small, 8, 0)]},
    )
    assert [m.model for m in found] == ["small", "large"] * 2
    assert all(len(m.samples_ns) >= 40 for m in found)
    names = sorted(path.name for path in (tmp_path / "work").glob("feeds-*"))
    assert names == ["feeds-0-0.npz", "feeds-0.npz", "feeds-1-0.npz", "feeds-1.npz"]


def test_measurements_come_load_by_load_and_say_what_they_are_of(contenders, rows, run, heard):
    cases = [
        (load(), fixed_length(rows, 8, 4, 0)),
        (load(batch=2, scenario="offline"), fixed_length(rows, 8, 4, 0, batch=2)),
        (load("task"), task_lengths(rows, 8, 0)),
    ]
    progress = heard()
    found = run(contenders, cases, progress=progress)
    assert [(m.model, m.load) for m in found] == [
        (contender.name, asked) for asked, _ in cases for contender in contenders
    ]
    for measurement in found:
        assert len(measurement.samples_ns) >= 40
        assert sum(measurement.samples_ns) >= 0.02e9
        assert sum(measurement.round_sizes) == len(measurement.samples_ns)
        assert len(measurement.round_sizes) % ROUNDS == 0
        assert (measurement.target, measurement.fidelity) == ("host", "measured")
        assert (measurement.runtime, measurement.threads) == ("onnxruntime", 1)
        assert measurement.timer_ns > 0
        assert measurement.percentile_ms(50) is not None
    done = [tick[1] for tick in progress.ticks]
    assert done == sorted(set(done))
    assert progress.ticks[-1] == ("benchmark", 24, 24)


def test_contenders_really_alternate(contenders, rows, run, tmp_path):
    run(contenders, [(load(), fixed_length(rows, 8, 4, 0))])
    blocks = json.loads(result_file(tmp_path).read_text())["blocks"]
    names = [block["contender"] for block in blocks]
    planned = [contenders[place].name for order in orders(2, ROUNDS) for place in order]
    assert names == planned * (len(names) // len(planned))
    assert names[:4] == ["first", "second", "second", "first"]


def test_percentiles_without_enough_samples_are_none(contenders, rows, run):
    asked = load(min_runs=24, min_seconds=1e-6)
    found = run(contenders, [(asked, fixed_length(rows, 8, 4, 0))])
    for measurement in found:
        assert 20 <= len(measurement.samples_ns) < 100
        assert measurement.percentile_ms(50) is not None
        assert measurement.percentile_ms(90) is None
        assert measurement.percentile_ms(99) is None
        assert measurement.as_json()["p99_ms"] is None


def test_a_hugging_face_folder_and_an_onnx_file_are_timed_in_one_process(
    contenders, rows, run, tmp_path
):
    shape = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    BertForSequenceClassification(shape).save_pretrained(tmp_path / "teacher")
    teacher = Contender("teacher", "pytorch", tmp_path / "teacher")
    found = run([teacher, contenders[0]], [(load(), fixed_length(rows, 8, 4, 0))])
    assert [(m.model, m.runtime) for m in found] == [
        ("teacher", "pytorch"),
        ("first", "onnxruntime"),
    ]
    assert found[0].round_sizes
    assert len(found[0].round_sizes) == len(found[1].round_sizes)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_keeps_finished_loads_and_the_same_call_goes_on(
    contenders, rows, run, heard, tmp_path
):
    feeds = fixed_length(rows, 8, 4, 0)
    cases = [(load(), feeds), (load(min_seconds=0.8), feeds)]

    def kill_in_the_second_load(done, _total):
        if done > ROUNDS * len(contenders):
            for worker in psutil.Process().children():
                ended = worker.status() == psutil.STATUS_ZOMBIE
                if not ended and "toolchain.bench.worker" in worker.cmdline():
                    worker.kill()

    with pytest.raises(StepError, match="worker was killed by SIGKILL"):
        run(contenders, cases, progress=heard(kill_in_the_second_load))
    kept = result_file(tmp_path).read_bytes()
    assert not result_file(tmp_path, 1).exists()

    progress = heard()
    found = run(contenders, cases, progress=progress)
    assert progress.said == ["1 of 2 loads were timed before and are kept"]
    assert progress.ticks[0][1] > ROUNDS * len(contenders)
    assert result_file(tmp_path).read_bytes() == kept
    first = json.loads(kept)["blocks"][0]
    assert list(found[0].samples_ns[: len(first["samples_ns"])]) == first["samples_ns"]
    assert len(found) == 4


def test_what_was_measured_is_not_measured_again_by_the_same_call(contenders, rows, run, heard):
    cases = [(load(), fixed_length(rows, 8, 4, 0))]
    once = run(contenders, cases)
    progress = heard()
    assert run(contenders, cases, progress=progress) == once
    assert progress.ticks == [("benchmark", 8, 8)]


@pytest.mark.parametrize("changed", ["rounds", "feeds", "model"])
def test_results_of_another_question_are_measured_anew(
    contenders, rows, run, heard, onnx_file, changed
):
    once = run(contenders, [(load(), fixed_length(rows, 8, 4, 0))])
    if changed == "model":
        onnx_file("first", seed=99)
    seed, rounds = (1 if changed == "feeds" else 0), (5 if changed == "rounds" else ROUNDS)
    progress = heard()
    again = run(
        contenders, [(load(), fixed_length(rows, 8, 4, seed))], progress=progress, rounds=rounds
    )
    assert progress.said == []
    assert again[0].samples_ns != once[0].samples_ns


def test_fewer_loads_leave_nothing_of_the_old_ones_behind(contenders, rows, run, tmp_path):
    feeds = fixed_length(rows, 8, 4, 0)
    run(contenders, [(load(), feeds), (load(), feeds)])
    run(contenders, [(load(), feeds)])
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert names == {"feeds-0.npz", "load-0.json", "spec.json", "worker.log"}


def test_a_corrupt_model_is_told_in_the_sentence_of_its_runtime(contenders, rows, run, tmp_path):
    contenders[1].path.write_bytes(b"nothing like it")
    with pytest.raises(IntegrityError, match=r"second\.onnx: not a whole ONNX model"):
        run(contenders, [(load(), fixed_length(rows, 8, 4, 0))])
    assert not result_file(tmp_path).exists()


def test_a_model_that_fails_while_running_is_told_with_the_shape(rows, run, onnx_file):
    small = Contender("small", "onnxruntime", onnx_file("small", vocab=5))
    with pytest.raises(
        StepError, match=r"small\.onnx: onnxruntime failed on a feed of shape 1 x 8"
    ):
        run([small], [(load(), fixed_length(rows, 8, 4, 0))])


def test_a_missing_model_is_refused_before_anything_starts(contenders, rows, run, tmp_path):
    gone = Contender("gone", "onnxruntime", tmp_path / "gone.onnx")
    with pytest.raises(UsageError, match=r"gone: .*gone\.onnx: no such file or folder"):
        run([*contenders, gone], [(load(), fixed_length(rows, 8, 4, 0))])
    assert not (tmp_path / "work").exists()


def test_an_unknown_runtime_is_refused_with_its_neighbour(contenders, rows, run):
    wrong = Contender("w", "onnxruntme", contenders[0].path)
    with pytest.raises(UsageError, match=r"w: unknown runtime 'onnxruntme'.*'onnxruntime'"):
        run([wrong], [(load(), fixed_length(rows, 8, 4, 0))])


def test_two_models_of_one_name_are_refused(contenders, rows, run):
    twice = [contenders[0], Contender("first", "onnxruntime", contenders[1].path)]
    with pytest.raises(UsageError, match="2 models of one benchmark are called 'first'"):
        run(twice, [(load(), fixed_length(rows, 8, 4, 0))])


def test_nothing_to_time_is_refused(contenders, rows, run):
    with pytest.raises(UsageError, match="without a model"):
        run([], [(load(), fixed_length(rows, 8, 4, 0))])
    with pytest.raises(UsageError, match="without a load"):
        run(contenders, [])
    with pytest.raises(UsageError, match="no feeds"):
        run(contenders, [(load(), [])])
    with pytest.raises(UsageError, match="at least 1, found 0 and 1"):
        run(contenders, [(load(), fixed_length(rows, 8, 4, 0))], rounds=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokens": 9}, r"load of 9 tokens, batch 1: a feed's input_ids is \(1, 8\)"),
        ({"batch": 2, "scenario": "offline"}, r"batch 2: a feed's input_ids is \(1, 8\)"),
        ({"batch": 2}, "single-stream means batch 1"),
        ({"scenario": "server"}, "server scenario is not timed here"),
        ({"min_runs": 0}, "must be positive"),
        ({"min_seconds": 0.0}, "must be positive"),
    ],
)
def test_a_load_that_its_feeds_or_the_loop_cannot_meet_is_refused(
    contenders, rows, run, changes, complaint
):
    with pytest.raises(UsageError, match=complaint):
        run(contenders, [(load(**changes), fixed_length(rows, 8, 4, 0))])
