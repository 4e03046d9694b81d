import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.demo import bag_of_words
from toolchain.data.sources import load_task
from toolchain.demo import grammar
from toolchain.demo.grammar import Corpus, generate, labels, write
from toolchain.demo.phrases import Pool, load
from toolchain.errors import UsageError
from toolchain.recipe import Columns


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate()


def test_the_same_seed_gives_the_same_files_in_every_process(tmp_path: Path) -> None:
    script = "import sys, pathlib, toolchain.demo.grammar as g; g.write(pathlib.Path(sys.argv[1]))"
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(out)], env=environment, check=True)
        files = sorted(out.iterdir())
        splits = ["dev.tsv", "labels.txt", "logs.txt", "test.tsv", "train.tsv"]
        assert [file.name for file in files] == splits
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_another_seed_gives_other_texts() -> None:
    first, second = generate(seed=0, train=200), generate(seed=1, train=200)
    assert {row.text for row in first.dev} != {row.text for row in second.dev}


def test_no_text_occurs_twice(corpus: Corpus) -> None:
    texts = [row.text for row in (*corpus.train, *corpus.dev, *corpus.test)]
    texts += corpus.logs
    assert len(set(texts)) == len(texts) == 14000


def test_logs_leave_the_splits_as_they_are(corpus: Corpus) -> None:
    without = generate(logs=0)
    assert (without.train, without.dev, without.test) == (corpus.train, corpus.dev, corpus.test)
    assert without.logs == ()


def test_the_intents_have_equal_parts(corpus: Corpus) -> None:
    for split in (corpus.train, corpus.dev, corpus.test):
        counts = [sum(row.intent == name for row in split) for name in labels()]
        assert max(counts) - min(counts) <= 1
        # Mixed, not in blocks of one intent.
        assert len({row.intent for row in split[:50]}) > 10


def test_no_template_of_dev_or_test_occurs_in_train(corpus: Corpus) -> None:
    seen = {row.template for row in corpus.train}
    held = {row.template for row in (*corpus.dev, *corpus.test)}
    assert len(seen) > 200
    assert len(held) > 120
    assert not seen & held


def test_held_out_words_and_frames_never_occur_in_train(corpus: Corpus) -> None:
    phrases = load()
    train = "\n".join(row.text for row in corpus.train)
    for name, pool in phrases.slots.items():
        for word in pool.held:
            wanted = re.compile(rf"\b{re.escape(word)}\b")
            usual = name in ("minutes", "degrees", "percent")
            assert usual or not wanted.search(train), word
    for pool in (phrases.frames.do, phrases.frames.say, phrases.contrasts.say):
        for frame in pool.held:
            start = frame.split("{")[0]
            assert not start or f"\n{start}" not in train, frame


def _pools() -> list[Pool]:
    phrases = load()
    wrapped = [*phrases.intents.values(), phrases.frames, phrases.contrasts]
    return [*phrases.slots.values(), *(pool for two in wrapped for pool in (two.do, two.say))]


def test_no_phrase_is_in_two_parts_of_its_pool() -> None:
    for pool in _pools():
        everything = [*pool.both, *pool.seen, *pool.held]
        assert len(set(everything)) == len(everything)


def test_no_template_is_shared_by_two_intents() -> None:
    every = [
        template
        for intent in load().intents.values()
        for pool in (intent.do, intent.say)
        for template in (*pool.both, *pool.seen, *pool.held)
    ]
    assert len(set(every)) == len(every)
    assert not any(pool.both for i in load().intents.values() for pool in (i.do, i.say))


def test_every_slot_and_every_near_intent_is_defined(corpus: Corpus) -> None:
    phrases = load()
    for pool in _pools():
        for template in (*pool.both, *pool.seen, *pool.held):
            slots = set(re.findall(r"\{(\w+)\}", template))
            assert slots <= {*phrases.slots, "x", "y"}, template
    for name, intent in phrases.intents.items():
        assert set(intent.near) <= set(labels()) - {name}
    assert not any(set(row.text) & set("{}[]|") for row in (*corpus.train, *corpus.dev))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_knowing_words_is_clearly_not_enough(seed: int) -> None:
    made = generate(seed=seed)
    assert 0.68 < bag_of_words.accuracy(made.train, made.dev) < 0.80
    # It is the held-out phrasing that is hard: the same classifier fits what train shows.
    assert bag_of_words.accuracy(made.train, made.train) > 0.95


def test_the_files_load_as_a_task_with_the_intents_in_order(tmp_path: Path) -> None:
    write(tmp_path / "data", train=160, dev=32, test=32, logs=32)
    task = load_task(str(tmp_path / "data"), columns=Columns(), teacher_labels=None)
    assert (len(task.train), len(task.dev), len(task.test or ())) == (160, 32, 32)
    assert task.labels == labels()
    assert task.notes == ()


def test_more_than_the_grammar_can_tell_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_TRIES", 1)
    with pytest.raises(UsageError, match="the grammar has hardly more than"):
        generate()
