"""Models with different tokenizers: which rows stand beside each other, and what is refused."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tests.unit.distill.conftest import STUDENT, TEACHER
from toolchain.data.batching import Rows, collate
from toolchain.distill import extract, matching, objectives, reduction
from toolchain.distill.aggregation import Mean
from toolchain.distill.capture import Recorder
from toolchain.distill.compose import compose
from toolchain.distill.context import Moment
from toolchain.distill.distiller import Distiller
from toolchain.distill.extract import Request
from toolchain.distill.operators import AdvEmbed, Interchange, StudentGenerate, TeacherGenerate
from toolchain.distill.passes import StepPasses
from toolchain.distill.positions import aligned, positions_of
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery import MultiHead, ReplaceModules
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.distill.term import Term, bind, find_method, methods
from toolchain.distill.transforms import Pool, VocabMap
from toolchain.errors import UsageError
from toolchain.models.family import family_of
from toolchain.spec import ModelSpec

IGNORED = -100


def test_the_first_supervised_tokens_of_each_sequence_stand_beside_each_other() -> None:
    # Three supervised tokens, one, none; against two, four, two.
    student = torch.tensor([[IGNORED, 7, 8, 9], [4, IGNORED, IGNORED, IGNORED], [IGNORED] * 4])
    teacher = torch.tensor(
        [[1, IGNORED, 2, IGNORED, IGNORED], [IGNORED, 3, 4, 5, 6], [7, 8, IGNORED, IGNORED, -100]]
    )
    found = aligned(positions_of("causal_lm", student), positions_of("causal_lm", teacher), 3)
    assert found is not None
    # Rows of the student: 0 0 0 1. Rows of the teacher: 0 0 1 1 1 1 2 2.
    assert found.student_A.tolist() == [0, 1, 3]
    assert found.teacher_A.tolist() == [0, 1, 2]


def test_equal_rows_stand_as_they_are() -> None:
    labels = torch.tensor([[1, 2, IGNORED], [IGNORED, 3, 4]])
    rows = positions_of("tag", labels)
    found = aligned(rows, rows, 2)
    assert found is not None
    assert found.student_A.tolist() == found.teacher_A.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("task", "labels"),
    [("classify", torch.tensor([0, 2])), ("multi_label", torch.ones(2, 3)),
     ("regress", torch.tensor([0.5, 1.0]))],
)  # fmt: skip
def test_tasks_with_one_answer_per_sequence_need_no_alignment(task, labels) -> None:
    rows = positions_of(task, labels)
    assert aligned(rows, rows, 2) is None


def decoder(vocab: int, layers: int, seed: int, tokenizer: str) -> TrainingModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
        initializer_range=0.4,
    )  # fmt: skip
    family = family_of("llama")
    spec = family.spec(config.to_dict(), task="causal_lm")
    return TrainingModel(
        model=LlamaForCausalLM(config), family=family, spec=replace(spec, tokenizer=tokenizer)
    )


def rows_of(vocab: int, prompts: list[int], answers: list[int], seed: int) -> Rows:
    """Rows of random tokens: so many of a prompt, then so many of an answer, which is judged."""
    drawn, features, labels = np.random.default_rng(seed), [], []
    for asked, said in zip(prompts, answers, strict=True):
        ids = drawn.integers(1, vocab, asked + said)
        target = np.append(ids[1:], IGNORED)
        target[: asked - 1] = IGNORED
        features.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        labels.append(target)
    return Rows(features=features, labels=tuple(labels), pad_id=0, truncated=0, task="causal_lm")


def seen_by(student: TrainingModel, teachers: list[TrainingModel], rows: Rows, terms, chosen):
    readers = [
        OnlineTeacher(
            teacher,
            frozenset().union(*(b.requests("teacher") for b in terms if b.teacher == k)),
            device=torch.device("cpu"),
            bf16=False,
        )
        for k, teacher in enumerate(teachers)
    ]
    wanted = frozenset().union(*(b.requests("student") for b in terms))
    recorder = Recorder(student.model, student.family, student.spec, wanted)
    distiller = Distiller(terms, aggregation=Mean() if len(teachers) > 1 else None)
    with recorder:
        passes = StepPasses(
            student.model, recorder, student.spec, readers, distiller, (),
            lambda _: contextlib.nullcontext(),
        )  # fmt: skip
        seen = passes.seen(collate(rows, chosen, step=0), Moment())
        counts = passes.denominators(seen)
        return seen["plain"], distiller(seen, counts), counts


def probabilities(model: TrainingModel, rows: Rows, number: int) -> np.ndarray:
    """Softmax at the supervised positions of one row, read alone, without padding."""
    ids = torch.from_numpy(rows.features[number]["input_ids"])[None]
    with torch.no_grad():
        logits = model.model(input_ids=ids).logits[0].double().numpy()
    logits = logits[rows.labels[number] != IGNORED]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sorted_distance(q: np.ndarray, p: np.ndarray) -> float:
    width = max(len(q), len(p))
    down = [np.pad(np.sort(x)[::-1], (0, width - len(x))) for x in (q, p)]
    return float(np.abs(down[0] - down[1]).sum())


PROMPTS, ANSWERS = [3, 2, 4, 2], [3, 1, 5, 2]
THEIR_PROMPTS, THEIR_ANSWERS = [1, 5, 2, 3], [2, 4, 6, 1]


def uld_pair() -> tuple[TrainingModel, TrainingModel, Rows]:
    student, teacher = decoder(23, 1, 0, "a"), decoder(31, 2, 1, "b")
    own = rows_of(31, THEIR_PROMPTS, THEIR_ANSWERS, seed=4)
    return student, replace(teacher, rows=own), rows_of(23, PROMPTS, ANSWERS, seed=3)


def test_uld_compares_the_common_number_of_answer_tokens_by_their_place() -> None:
    student, teacher, rows = uld_pair()
    terms = tuple(bind(t, student.spec, teacher.spec) for t in compose("uld", {}).stages["pred"])
    chosen = [2, 0, 3, 1]
    seen, values, counts = seen_by(student, [teacher], rows, terms, chosen)
    expected, hard = [], []
    for number in chosen:
        q, p = probabilities(student, rows, number), probabilities(teacher, teacher.rows, number)
        expected += [sorted_distance(*pair) for pair in zip(q, p, strict=False)]
        gold = rows.labels[number][rows.labels[number] != IGNORED]
        hard += [-np.log(q[i, y]) for i, y in enumerate(gold)]
    assert [len(expected), len(hard)] == [2 + 1 + 5 + 1, sum(ANSWERS)]
    assert counts == {"uld/sorted": 9.0, "uld/labels": 11.0}
    assert values["uld/sorted"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert values["uld/labels"].item() == pytest.approx(np.mean(hard), rel=1e-4)
    theirs = collate(teacher.rows, chosen)
    assert seen.apart[0].own.mask_BN.tolist() == theirs.mask_BN.tolist()
    assert len(seen.context.labels_P) == 11
    assert len(seen.apart[0].shared.labels_P) == 9


def test_a_teacher_with_the_students_tokens_and_one_with_its_own_are_averaged() -> None:
    student, other, rows = uld_pair()
    kin = decoder(23, 2, 5, "a")
    (soft, _) = compose("uld", {}).stages["pred"]
    terms = (bind(soft, student.spec, kin.spec, 0), bind(soft, student.spec, other.spec, 1))
    _, values, counts = seen_by(student, [kin, other], rows, terms, [0, 1, 2, 3])
    assert counts == {"uld/sorted": 11.0, "uld/sorted#2": 9.0}
    for name, teacher, theirs in (("uld/sorted", kin, rows), ("uld/sorted#2", other, other.rows)):
        expected = [
            sorted_distance(*pair)
            for n in range(4)
            for pair in zip(
                probabilities(student, rows, n), probabilities(teacher, theirs, n), strict=False
            )
        ]
        assert values[name].item() == pytest.approx(np.mean(expected) / 2, rel=1e-4)


def test_an_answer_that_one_tokenizer_cuts_off_counts_for_nothing() -> None:
    student, teacher, rows = uld_pair()
    nothing = tuple(np.full_like(labels, IGNORED) for labels in teacher.rows.labels)
    teacher = replace(teacher, rows=replace(teacher.rows, labels=nothing))
    terms = tuple(bind(t, student.spec, teacher.spec) for t in compose("uld", {}).stages["pred"])
    _, values, counts = seen_by(student, [teacher], rows, terms, [0, 1])
    assert counts["uld/sorted"] == 0
    assert values["uld/sorted"].item() == 0
    sum(values.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.model.parameters())


def encoder(vocab: int, width: int, seed: int, tokenizer: str) -> TrainingModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, initializer_range=0.4, num_labels=3,
    )  # fmt: skip
    family = family_of("bert")
    spec = replace(family.spec(config.to_dict(), task="classify"), num_labels=3)
    model = BertForSequenceClassification(config).eval()
    return TrainingModel(model=model, family=family, spec=replace(spec, tokenizer=tokenizer))


def texts(vocab: int, lengths: list[int], seed: int) -> Rows:
    drawn = np.random.default_rng(seed)
    ids = [drawn.integers(1, vocab, n) for n in lengths]
    features = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    return Rows(features=features, labels=np.arange(len(ids)) % 3, pad_id=0, truncated=0)


def test_pooled_states_are_pooled_by_each_models_own_mask() -> None:
    """Means over tokens of unequal rows, against each row read alone without padding."""
    student, teacher = encoder(23, 16, 0, "a"), encoder(31, 16, 1, "b")
    rows = texts(23, [3, 7, 5], 2)
    teacher = replace(teacher, rows=texts(31, [9, 2, 6], 3))
    term = Term(
        "pooled", extract.hidden, objectives.MSE(), reduction.mean_feat_mean_cls,
        transforms=(Pool("mean"),), match=matching.Same(),
    )  # fmt: skip
    bound = bind(term, student.spec, teacher.spec)
    _, values, counts = seen_by(student, [teacher], rows, (bound,), [2, 0, 1])
    assert counts == {"pooled": 3.0}

    def pooled(model: TrainingModel, own: Rows, number: int) -> torch.Tensor:
        ids = torch.from_numpy(own.features[number]["input_ids"])[None]
        with torch.no_grad():
            states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        return torch.stack([states[layer].mean(1)[0] for layer in (1, 2)])

    expected = [
        (pooled(student, rows, n) - pooled(teacher, teacher.rows, n)).square().mean(1).sum()
        for n in range(3)
    ]
    layers = len(bound.layer_map.pairs)
    assert layers == 2
    assert values["pooled"].item() == pytest.approx(float(np.mean(expected)), rel=1e-4)


def test_a_classifier_with_other_tokens_gives_its_answer_to_the_same_text() -> None:
    student, teacher = encoder(23, 16, 0, "a"), encoder(31, 24, 1, "b")
    rows = texts(23, [3, 7, 5, 4], 2)
    teacher = replace(teacher, rows=texts(31, [9, 2, 6, 3], 3))
    terms = tuple(bind(t, student.spec, teacher.spec) for t in compose("kd", {}).stages["pred"])
    seen, _, _ = seen_by(student, [teacher], rows, terms, [3, 1, 2])
    for place, number in enumerate([3, 1, 2]):
        ids = torch.from_numpy(teacher.rows.features[number]["input_ids"])[None]
        with torch.no_grad():
            alone = teacher.model(input_ids=ids).logits[0]
        found = seen.teachers[0].tensor(Request("logits"))[place]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


OTHER = replace(TEACHER, tokenizer="folders/b")
OWN = replace(STUDENT, tokenizer="folders/a")


def terms_of(name: str) -> tuple[Term, ...]:
    return find_method(name)().terms()


def refusal(term: Term, student: ModelSpec, teacher: ModelSpec) -> str:
    with pytest.raises(UsageError) as refused:
        bind(term, student, teacher)
    return f"{refused.value.message}; {refused.value.hint}"


TOKENS = {"tok", "pair", "span", "span_pair"}


@pytest.mark.parametrize("name", methods.names())
def test_what_is_compared_decides_what_two_tokenizers_allow(name: str) -> None:
    """Every term of every method on a classifier: one value per sequence passes, tokens do not."""
    for term in terms_of(name):
        try:
            plain = bind(term, STUDENT, TEACHER)
        except UsageError:
            continue
        shape = term.extract.shape(STUDENT)
        for transform in plain.transforms:
            shape = transform.shape(shape) if transform.side in ("both", "student") else shape
        free = shape.positions not in TOKENS and not term.guide
        if free and not any(isinstance(t, VocabMap) for t in term.transforms):
            assert bind(term, OWN, OTHER).layer_map == plain.layer_map
        else:
            said = refusal(term, OWN, OTHER)
            assert f"term {term.name!r}" in said
            assert "folders/a" in said
            assert "folders/b" in said


@pytest.mark.parametrize("task", ["causal_lm", "tag"])
def test_of_predictions_at_tokens_only_sorted_ones_may_be_compared(task) -> None:
    student, teacher = (
        replace(spec, task=task, causal=task == "causal_lm") for spec in (OWN, OTHER)
    )
    (soft, labels) = terms_of("uld")
    assert bind(soft, student, teacher).name == "sorted"
    assert bind(labels, student, teacher).name == "labels"
    said = refusal(terms_of("kd")[0], student, teacher)
    assert (
        "term 'soft': it compares token by token: the student reads the tokens of folders/a, "
        in said
    )
    assert "the teacher those of folders/b" in said
    assert "use uld, which compares sorted predictions" in said
    assert ("seqkd" in said) == (task == "causal_lm")
    bind(terms_of("kd")[0], student, replace(teacher, tokenizer="folders/a"))


def test_what_a_masked_model_predicts_is_refused_whatever_compares_it() -> None:
    student, teacher = (replace(spec, task="mask_lm") for spec in (OWN, OTHER))
    said = refusal(terms_of("uld")[0], student, teacher)
    assert "of a masked text each model reads what its own tokenizer hides" in said


def test_one_vocabulary_is_not_looked_up_in_another() -> None:
    (soft, _) = terms_of("uld")
    mapped = replace(soft, transforms=(VocabMap(),))
    student = replace(OWN, task="causal_lm", causal=True, vocab=40)
    teacher = replace(OTHER, task="causal_lm", causal=True)
    assert "vocab_map finds the student's tokens among the teacher's" in refusal(
        mapped, student, teacher
    )


@pytest.mark.parametrize(
    ("part", "task", "sentence"),
    [
        (Interchange(), "classify", "it exchanges the activations of the same tokens"),
        (StudentGenerate(), "causal_lm", "the teacher judges the tokens the student sampled"),
        (ReplaceModules(), "classify", "the teacher's blocks stand in for the student's"),
    ],
)
def test_parts_that_carry_activations_or_tokens_over_are_refused(part, task, sentence) -> None:
    student, teacher = (
        replace(spec, task=task, causal=task == "causal_lm") for spec in (OWN, OTHER)
    )
    part.check(student, replace(teacher, tokenizer=student.tokenizer))
    with pytest.raises(Unfit, match=sentence) as refused:
        part.check(student, teacher)
    assert "folders/a, the teacher those of folders/b" in refused.value.problem


@pytest.mark.parametrize("part", [AdvEmbed(), MultiHead()])
def test_parts_that_touch_the_student_alone_are_free(part) -> None:
    part.check(OWN, OTHER)
    decoders = (replace(s, task="causal_lm", causal=True) for s in (OWN, OTHER))
    TeacherGenerate().check(*decoders)
