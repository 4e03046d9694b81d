from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toolchain.bench import job as jobs
from toolchain.bench.clock import Block
from toolchain.bench.job import Contender, Job, LoadResult
from toolchain.bench.loads import fixed_length, task_lengths
from toolchain.measurement import Load

JOB = Job(
    contenders=(
        Contender("a", "onnxruntime", Path("a.onnx")),
        Contender("b", "pytorch", Path("b")),
    ),
    models=("1", "2"),
    loads=(Load(tokens=16), Load(tokens="task", min_runs=7)),
    feeds=("3", "4"),
    threads=1,
    provider="CPUExecutionProvider",
    rounds=4,
    made_with={"cpu": "x", "torch": "2"},
    own={"b": ("5", "6")},
)
RESULT = LoadResult(
    job=JOB.digest,
    timer_ns=40,
    blocks=(Block(0, "a", (5, 6)), Block(0, "b", (9,)), Block(1, "b", (8,)), Block(1, "a", (7,))),
)


def test_a_job_is_read_as_it_was_written():
    assert Job.parse(JOB.as_json()) == JOB


@pytest.mark.parametrize(
    "change",
    [
        {"models": ("1", "other")},
        {"feeds": ("3", "other")},
        {"own": {"b": ("5", "other")}},
        {"loads": (Load(tokens=16), Load(tokens="task", min_runs=8))},
        {"threads": 2},
        {"provider": "CUDAExecutionProvider"},
        {"rounds": 5},
        {"made_with": {"cpu": "x", "torch": "3"}},
    ],
)
def test_whatever_changes_the_figures_changes_the_digest(change):
    assert replace(JOB, **change).digest != JOB.digest


def test_feeds_are_read_as_they_were_written(tmp_path, rows):
    feeds = [*fixed_length(rows, 8, 11, 0), *task_lengths(rows, 3, 0)]
    jobs.write_feeds(tmp_path / "feeds.npz", feeds)
    found = jobs.read_feeds(tmp_path / "feeds.npz")
    assert len(found) == len(feeds)
    for one, other in zip(found, feeds, strict=True):
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in other)
    assert jobs.feeds_digest(found) == jobs.feeds_digest(feeds)


def test_another_token_or_another_order_is_another_digest_of_feeds(rows):
    feeds = fixed_length(rows, 8, 3, 0)
    changed = [{name: values.copy() for name, values in feed.items()} for feed in feeds]
    changed[1]["input_ids"][0, 3] += 1
    assert jobs.feeds_digest(changed) != jobs.feeds_digest(feeds)
    assert jobs.feeds_digest(feeds[::-1]) != jobs.feeds_digest(feeds)


def test_a_result_is_read_as_it_was_written(tmp_path):
    jobs.write_result(tmp_path, 1, RESULT)
    assert jobs.read_result(tmp_path, 1, JOB) == RESULT
    assert jobs.read_result(tmp_path, 0, JOB) is None


def test_a_result_of_another_job_counts_for_nothing(tmp_path):
    jobs.write_result(tmp_path, 0, RESULT)
    assert jobs.read_result(tmp_path, 0, replace(JOB, rounds=5)) is None


@pytest.mark.parametrize("text", ["", '{"job": ', "[]", '{"job": "x", "blocks": [{}]}'])
def test_a_damaged_result_counts_for_nothing(tmp_path, text):
    (tmp_path / "load-0.json").write_text(text)
    assert jobs.read_result(tmp_path, 0, JOB) is None


def test_samples_of_a_contender_come_round_by_round():
    assert RESULT.rounds_of("a") == [(5, 6), (7,)]
    assert RESULT.rounds_of("b") == [(9,), (8,)]


def test_a_changed_graph_or_changed_weights_beside_it_are_another_model(tmp_path):
    graph, weights = tmp_path / "m.onnx", tmp_path / "m.onnx_data"
    graph.write_bytes(b"graph")
    weights.write_bytes(b"weights")
    (tmp_path / "other.onnx").write_bytes(b"other")
    digest = jobs.model_digest(graph)
    (tmp_path / "other.onnx").write_bytes(b"changed")
    assert jobs.model_digest(graph) == digest
    weights.write_bytes(b"changed")
    assert jobs.model_digest(graph) != digest


def test_of_a_folder_the_weights_and_the_configuration_count_but_not_its_log(tmp_path):
    for name in ("config.json", "model.safetensors", "run.json"):
        (tmp_path / name).write_text(name)
    digest = jobs.model_digest(tmp_path)
    (tmp_path / "run.json").write_text("more")
    (tmp_path / "events.jsonl").write_text("more")
    assert jobs.model_digest(tmp_path) == digest
    (tmp_path / "config.json").write_text("more")
    assert jobs.model_digest(tmp_path) != digest
