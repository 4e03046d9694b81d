"""A student with a part of its teacher's tokens: what each side reads, and what is compared."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from toolchain.data.batching import Batch
from toolchain.distill import extract
from toolchain.distill.capture import Recorder
from toolchain.distill.compose import compose
from toolchain.distill.context import Context, Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.passes import StepPasses
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.distill.term import bind
from toolchain.distill.transforms import VocabMap
from toolchain.errors import UsageError
from toolchain.models.compress import select_tokens, token_embeddings
from toolchain.models.family import family_of
from toolchain.models.vocabulary import choose

V, K, IGNORED = 40, 24, -100


@pytest.fixture
def teacher() -> TrainingModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, initializer_range=0.3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    family = family_of("bert")
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    return TrainingModel(
        model=model, family=family, spec=family.spec(config.to_dict(), task="mask_lm")
    )


@pytest.fixture
def student(teacher: TrainingModel) -> TrainingModel:
    counts = np.random.default_rng(0).permutation(V)
    vocabulary = choose(counts, token_embeddings(teacher.model), K, special=range(5))
    return replace(
        teacher,
        model=select_tokens(teacher.model, vocabulary),
        spec=replace(teacher.spec, vocab=K),
        vocabulary=vocabulary,
    )


def batch_of(ids: torch.Tensor) -> Batch:
    labels = torch.full_like(ids, IGNORED)
    labels[:, 2:5] = ids[:, 3:6]
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, (0, 1, 2))


def seen_by(student: TrainingModel, teacher: TrainingModel, text: str, batch: Batch):
    terms = tuple(
        bind(t, student.spec, teacher.spec)
        for stage in compose(text, {}).stages.values()
        for t in stage
        if t.name != "glmd/soft"
    )
    wanted = frozenset().union(*(b.requests("teacher") for b in terms))
    reader = OnlineTeacher(teacher, wanted, device=torch.device("cpu"), bf16=False)
    recorder = Recorder(student.model, student.family, student.spec, wanted)
    distiller = Distiller(terms)
    with recorder:
        passes = StepPasses(
            student.model, recorder, student.spec, [reader], distiller, (),
            lambda _: contextlib.nullcontext(), student.vocabulary,
        )  # fmt: skip
        seen = passes.seen(batch, Moment())
        return seen["plain"], distiller(seen, passes.denominators(seen))


def ids_of(choices: torch.Tensor) -> torch.Tensor:
    drawn = torch.randint(0, len(choices), (3, 8), generator=torch.Generator().manual_seed(1))
    return choices[drawn]


def test_a_cut_copy_of_the_teacher_agrees_with_it_on_kept_tokens(
    student: TrainingModel, teacher: TrainingModel
) -> None:
    assert student.vocabulary is not None
    batch = batch_of(ids_of(torch.from_numpy(student.vocabulary.kept)))
    _, values = seen_by(student, teacher, "glmd", batch)
    assert values["glmd/language"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_divergence_is_taken_over_the_kept_ids_alone(
    student: TrainingModel, teacher: TrainingModel
) -> None:
    batch = batch_of(ids_of(torch.arange(V)))
    vocabulary = student.vocabulary
    assert vocabulary is not None
    seen, values = seen_by(student, teacher, "glmd+finetune", batch)
    with torch.no_grad():
        own = torch.from_numpy(vocabulary.map(batch.inputs["input_ids"].numpy()))
        s = student.model(input_ids=own, attention_mask=batch.mask_BN).logits
        t = teacher.model(**batch.inputs).logits
    rows = batch.labels != IGNORED
    s, t = s[rows], t[rows][:, vocabulary.kept]
    tau = 15.0
    p, q = (t / tau).log_softmax(-1), (s / tau).log_softmax(-1)
    expected = tau**2 * (p.exp() * (p - q)).sum(-1).mean()
    torch.testing.assert_close(values["glmd/language"], expected, rtol=1e-4, atol=1e-6)
    own_labels = torch.from_numpy(vocabulary.map(batch.labels.numpy()))[rows]
    assert seen.context.labels_P is not None
    assert seen.context.labels_P.tolist() == own_labels.tolist()
    hard = torch.nn.functional.cross_entropy(s, own_labels)
    torch.testing.assert_close(values["finetune/labels"], hard)
    assert seen.teachers[0].get(extract.logits, 0).shape == (9, V)


def test_terms_over_the_vocabulary_need_the_map_when_sizes_differ(
    student: TrainingModel, teacher: TrainingModel
) -> None:
    (soft, *_) = compose("kd", {}).stages["pred"]
    with pytest.raises(UsageError, match=r"the student has 24, the teacher 40") as refused:
        bind(soft, student.spec, teacher.spec)
    assert "vocab_map" in refused.value.hint
    mapped = replace(soft, transforms=(VocabMap(),))
    assert bind(mapped, student.spec, teacher.spec).transforms == (VocabMap(outcomes=K),)


def test_the_map_refuses_what_it_cannot_choose_from() -> None:
    few, many = (Shape(positions="logits", features=n) for n in (3, 5))
    with pytest.raises(Unfit, match="the student has 5 outcomes, the teacher only 3"):
        VocabMap().resolve(many, few)
    token = Shape(positions="tok", features=3)
    with pytest.raises(Unfit, match="only logits have outcomes"):
        VocabMap().resolve(token, token)


def test_the_map_changes_nothing_where_the_outcomes_are_the_same() -> None:
    shape = Shape(positions="logits", features=3)
    fixed = VocabMap().resolve(shape, shape)
    values = torch.randn(2, 3)
    assert fixed(values, Context(mask_BN=torch.ones(2, 1)), None) is values
