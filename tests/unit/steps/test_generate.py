"""The teacher writes the training answers: resumable, deterministic, close to the reference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from toolchain.artifact import Artifact, drafting
from toolchain.data.sources import Split, TaskData, load_task
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.operators import TeacherGenerate
from toolchain.distill.shapes import Unfit
from toolchain.errors import UsageError
from toolchain.models.family import family_of
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.progress import Null
from toolchain.recipe import Columns
from toolchain.steps.generate import ANSWERS, generate, likeness, with_generated

WORDS = "who what is the a cat dog red blue sky sea one two three tell me of and on by".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks that knows twenty words."""
    folder = tmp_path_factory.mktemp("speaker")
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>", model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=32,
        initializer_range=0.4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def talk(rows: int = 150) -> TaskData:
    prompts = tuple(f"tell me of {WORDS[i % 7]} {WORDS[i % 11]}" for i in range(rows))
    answers = tuple(" ".join(WORDS[(i + k) % 20] for k in range(2 + i % 4)) for i in range(rows))
    train = Split(prompts, answers, (), "talk/train.jsonl")
    return TaskData(
        name="talk", task="causal_lm", kind="pair", labels=(), named=False, train=train, dev=train,
        test=None, digest="", files=(), notes=(),
    )  # fmt: skip


class Killed(Exception):
    pass


class Watch(Null):
    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at, self.done = stop_at, list[int]()

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        self.done.append(done)
        if done == self.stop_at:
            raise Killed


def write(
    folder: Path, speaker: Path, task: TaskData, progress: Null | None = None, **settings: object
) -> Artifact:
    chosen = {"beams": 3, **settings}
    with drafting(folder, {}) as draft:
        generate(
            draft,
            teacher=speaker,
            task=task,
            settings=TeacherGenerate(**chosen),  # type: ignore[arg-type]
            max_tokens=32,
            batch_size=16,
            threads=1,
            work=folder.with_name(f"{folder.name}-work"),
            progress=progress or Null(),
        )
    return Artifact.open(folder)


def test_answers_are_those_of_the_beam_and_become_training_rows(
    speaker: Path, tmp_path: Path
) -> None:
    task = talk(70)
    watch = Watch()
    artifact = write(tmp_path / "out", speaker, task, watch)
    assert watch.done == [64, 70]
    assert artifact.facts["rows"] == 70
    changed = with_generated(task, artifact)
    assert changed.train.texts == task.train.texts
    assert changed.train.texts_b != task.train.texts_b
    assert changed.dev is task.dev
    tokenizer, model = load_tokenizer(speaker), load_model(speaker, "causal_lm")
    longest = max(len(a.split()) for a in task.train.texts_b or ()) + 1
    for row in (0, 5, 69):
        prompt = tokenizer(f"{task.train.texts[row]}\n", return_tensors="pt")["input_ids"]
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), num_beams=3, do_sample=False,
            max_new_tokens=longest,
        )  # fmt: skip
        said = tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)
        assert (changed.train.texts_b or ())[row] == said
    rows = tokenize_split(tokenizer, changed.train, changed, max_tokens=32)
    assert len(rows) == 70


def test_a_killed_step_keeps_its_finished_shards_and_ends_with_the_same_rows(
    speaker: Path, tmp_path: Path
) -> None:
    task = talk()
    whole = write(tmp_path / "whole", speaker, task)
    with pytest.raises(Killed):
        write(tmp_path / "cut", speaker, task, Watch(stop_at=128))
    shards = tmp_path / "cut-work"
    assert sorted(p.name for p in shards.iterdir()) == ["shard-00000.json", "shard-00001.json"]
    # What stands in a finished shard is read, not made again.
    first = shards / "shard-00000.json"
    marked = ["a cat", *json.loads(first.read_text())[1:]]
    first.write_text(json.dumps(marked))
    resumed = write(tmp_path / "cut", speaker, task)
    lines = [(tmp_path / n / ANSWERS).read_text().splitlines() for n in ("whole", "cut")]
    assert json.loads(lines[1][0])["answer"] == "a cat"
    assert lines[0][1:] == lines[1][1:]
    assert whole.facts == resumed.facts


def test_the_closest_answer_of_the_beam_is_never_further_from_the_reference(
    speaker: Path, tmp_path: Path
) -> None:
    task = talk(64)
    answers = {}
    for name, closest in (("seq", False), ("inter", True)):
        artifact = write(tmp_path / name, speaker, task, closest=closest, beams=5)
        answers[name] = with_generated(task, artifact).train.texts_b or ()
    near = [
        [
            likeness(a.split(), r.split())
            for a, r in zip(said, task.train.texts_b or (), strict=True)
        ]
        for said in answers.values()
    ]
    # The end token, which the step sees and the text does not, may tip a tie.
    assert sum(near[1]) > sum(near[0])


def test_a_teacher_that_says_nothing_leaves_the_datas_answer(speaker: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    model = LlamaForCausalLM.from_pretrained(speaker)
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.lm_head.weight.zero_()
    model.generation_config.suppress_tokens = None
    model.save_pretrained(silent)
    load_tokenizer(speaker).save_pretrained(silent)
    # All tokens tie, and the lowest id wins: <unk>, which is a special token and no text.
    said: list[str] = []

    class Listening(Null):
        def say(self, message: str) -> None:
            said.append(message)

    artifact = write(tmp_path / "out", silent, talk(3), Listening(), beams=1)
    assert artifact.facts["silent"] == 3
    assert with_generated(talk(3), artifact).train.texts_b == talk(3).train.texts_b
    assert said == ["generate: the teacher says nothing to 3 of 3 prompts; they keep their answers"]


def test_rows_without_prompts_are_refused(speaker: Path, tmp_path: Path) -> None:
    task = talk()
    bare = replace(task, train=replace(task.train, texts_b=None))
    with pytest.raises(UsageError, match=r"talk/train\.jsonl: the teacher needs prompts"):
        write(tmp_path / "out", speaker, bare)
    assert not (tmp_path / "out").exists()


def test_only_decoders_write_and_a_beam_of_one_leaves_no_choice() -> None:
    spec = family_of("llama").spec(LlamaConfig().to_dict(), task="causal_lm")
    TeacherGenerate().check(spec, spec)
    with pytest.raises(Unfit, match="the student is a model for classify"):
        TeacherGenerate().check(replace(spec, task="classify"), spec)
    with pytest.raises(Unfit, match="nothing to choose from"):
        TeacherGenerate(beams=1, closest=True).check(spec, spec)
    with pytest.raises(Unfit, match="a beam of 0 finds nothing"):
        TeacherGenerate(beams=0).check(spec, spec)


@given(st.lists(st.integers(0, 5), min_size=4, max_size=9), st.data())
def test_likeness_is_one_for_the_reference_and_less_for_anything_else(
    reference: list[int], data: st.DataObject
) -> None:
    assert likeness(reference, reference) == pytest.approx(1.0)
    other = data.draw(st.lists(st.integers(0, 5), max_size=9))
    value = likeness(other, reference)
    assert 0 <= value <= 1
    if other != reference:
        assert value < 1 or sorted(other) == sorted(reference)


def test_likeness_by_hand() -> None:
    # 1-grams 3/4, 2-grams (1+1)/(3+1), 3-grams (0+1)/(2+1), 4-grams (0+1)/(1+1); no brevity.
    expected = (3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25
    assert likeness([1, 2, 9, 4], [1, 2, 3, 4]) == pytest.approx(expected)
    # Half as long: the penalty is exp(1 - 2).
    short = 2.718281828**-1
    assert likeness([1, 2], [1, 2, 3, 4]) == pytest.approx(short)


@pytest.mark.shared
def test_a_real_decoder_answers_real_prompts(shared: Path, tmp_path: Path) -> None:
    task = load_task(
        str(shared / "data" / "instruct"),
        columns=Columns(),
        teacher_labels=None,
        task="causal_lm",
    )
    assert task.train.texts_b is not None
    few = replace(
        task,
        train=replace(
            task.train,
            texts=task.train.texts[:12],
            texts_b=tuple(answer[:20] for answer in task.train.texts_b[:12]),
        ),
    )
    with drafting(tmp_path / "out", {}) as draft:
        generate(
            draft, teacher=shared / "models" / "stories260k", task=few,
            settings=TeacherGenerate(beams=5), max_tokens=512, batch_size=4, threads=1,
            work=tmp_path / "work", progress=Null(),
        )  # fmt: skip
    changed = with_generated(few, Artifact.open(tmp_path / "out"))
    assert all(answer.strip() for answer in changed.train.texts_b or ())
