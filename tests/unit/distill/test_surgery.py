"""Surgery on real tiny models: what is swapped, what is masked, what is left after healing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from toolchain.distill.context import Moment
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery.l0_masks import L0Masks, Masking
from toolchain.distill.surgery.masks import KINDS, best_cut, expected_sparsity, sizes
from toolchain.distill.surgery.replace_modules import ReplaceModules, Replacing, groups
from toolchain.distill.teachers import TrainingModel
from toolchain.models.build import build_student
from toolchain.models.family import family_of

# Without dropout training mode computes what evaluation mode does.
SILENT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = BertConfig(
    **SILENT, vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=32, num_labels=3, initializer_range=0.2,
)  # fmt: skip
GPT2 = GPT2Config(
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    vocab_size=60, n_embd=32, n_layer=4, n_head=4, n_positions=32, num_labels=3, pad_token_id=0,
    initializer_range=0.2,
)  # fmt: skip
LLAMA = LlamaConfig(
    vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=48, max_position_embeddings=32, num_labels=3,
    pad_token_id=0, initializer_range=0.2,
)  # fmt: skip
TEACHERS = {
    "bert": (BertForSequenceClassification, BERT),
    "gpt2": (GPT2ForSequenceClassification, GPT2),
    "llama": (LlamaForSequenceClassification, LLAMA),
}


def make(cls: type[PreTrainedModel], config: object) -> TrainingModel:
    torch.manual_seed(0)
    model = cls(config).eval()  # type: ignore[call-arg]
    family = family_of(model.config.model_type)
    spec = family.spec(model.config.to_dict(), task="classify", num_labels=3)
    return TrainingModel(model=model, family=family, spec=spec)


def shallower(teacher: TrainingModel, layers: int) -> TrainingModel:
    """A student of the teacher's first blocks, changed a little so that both differ."""
    spec = teacher.spec.reshaped(layers=layers)
    model = build_student(teacher.model, teacher.family, spec, "teacher_first_k", seed=1)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return TrainingModel(model=model, family=teacher.family, spec=spec)


def batch() -> dict[str, Tensor]:
    torch.manual_seed(3)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    ids = torch.randint(5, 60, (4, 9)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: PreTrainedModel) -> Tensor:
    return model(**batch()).logits


@pytest.fixture(params=sorted(TEACHERS))
def teacher(request: pytest.FixtureRequest) -> TrainingModel:
    return make(*TEACHERS[request.param])


def begun(
    teacher: TrainingModel, layers: int = 2, surgery: ReplaceModules | None = None
) -> tuple[TrainingModel, Replacing]:
    student = shallower(teacher, layers)
    return student, (surgery or ReplaceModules()).begin(student, [teacher])


@pytest.mark.parametrize(("layers", "expected"), [
    (6, [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]),
    (5, [[1, 2], [3, 4, 5], [6, 7], [8, 9, 10], [11, 12]]),
    (1, [list(range(1, 13))]),
    (12, [[n] for n in range(1, 13)]),
])  # fmt: skip
def test_groups_cover_the_teacher_once_in_order(layers: int, expected: list[list[int]]) -> None:
    assert [list(group) for group in groups(layers, 12)] == expected


def test_p_rises_on_a_line_to_one_and_stays() -> None:
    ramp = ReplaceModules(start=0.3, until=0.66)
    assert ramp.probability(0.0) == pytest.approx(0.3)
    assert ramp.probability(0.33) == pytest.approx(0.65)
    assert ramp.probability(0.66) == 1.0
    assert ramp.probability(0.99) == 1.0
    flat = ReplaceModules(start=0.5, until=0.66, ramp=False)
    assert [flat.probability(x) for x in (0.0, 0.65, 0.66)] == [0.5, 0.5, 1.0]


def test_with_p_one_the_student_is_bitwise_itself(teacher: TrainingModel) -> None:
    student, operation = begun(teacher)
    plain = logits(student.model)
    student.model.train()
    operation.before_step(Moment(step=9, steps=10))
    assert torch.equal(logits(student.model), plain)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_with_p_zero_the_student_is_bitwise_the_teacher(
    teacher: TrainingModel, layers: int
) -> None:
    student, operation = begun(teacher, layers, ReplaceModules(start=0.0))
    expected = logits(teacher.model)
    student.model.train()
    operation.before_step(Moment(step=0, steps=10))
    assert torch.equal(logits(student.model), expected)


def test_a_swapped_block_is_the_teachers_group(teacher: TrainingModel) -> None:
    student, operation = begun(teacher)
    student.model.train()
    operation.used = [True, False]
    prefix = teacher.family.block_prefix(1).removesuffix("0.")
    mixed = build_student(
        teacher.model, teacher.family, teacher.spec.reshaped(layers=3), "teacher_first_k", seed=0
    )
    weights = {n: t for n, t in teacher.model.state_dict().items() if not n.startswith(prefix)}
    for target, (side, source) in enumerate([(student, 0), (teacher, 2), (teacher, 3)]):
        for name, value in side.model.state_dict().items():
            if name.startswith(f"{prefix}{source}."):
                weights[name.replace(f"{prefix}{source}.", f"{prefix}{target}.")] = value
    mixed.load_state_dict(weights)
    assert torch.equal(logits(student.model), logits(mixed))


def test_evaluation_always_runs_the_plain_student(teacher: TrainingModel) -> None:
    student, operation = begun(teacher)
    plain = logits(student.model)
    operation.before_step(Moment(step=0, steps=10))
    operation.used = [False, False]
    student.model.eval()
    assert torch.equal(logits(student.model), plain)


def test_no_module_is_added_and_healing_leaves_no_trace(teacher: TrainingModel) -> None:
    student, operation = begun(teacher)
    untouched = shallower(teacher, 2)
    names = list(untouched.model.state_dict())
    assert list(student.model.state_dict()) == names
    assert [n for n, _ in student.model.named_modules()] == [
        n for n, _ in untouched.model.named_modules()
    ]
    operation.before_step(Moment(step=0, steps=10))
    operation.heal()
    blocks = student.model.get_submodule(
        student.family.block_prefix(1).removesuffix(".0.")
    ).children()
    assert all("forward" not in vars(block) for block in blocks)
    assert all(p.requires_grad for p in student.model.parameters())
    assert student.model.config.to_dict() == untouched.model.config.to_dict()


def test_only_used_blocks_learn_and_the_ends_rest_until_p_is_one(teacher: TrainingModel) -> None:
    student, operation = begun(teacher)
    student.model.train()
    operation.before_step(Moment(step=0, steps=10))
    operation.used = [True, False]
    logits(student.model).square().sum().backward()
    prefix = student.family.block_prefix(1)
    learning = {n for n, p in student.model.named_parameters() if p.grad is not None}
    assert learning
    assert all(name.startswith(prefix) for name in learning)
    assert all(p.grad is None for p in teacher.model.parameters())
    operation.before_step(Moment(step=9, steps=10))
    logits(student.model).square().sum().backward()
    assert all(p.grad is not None for _, p in student.model.named_parameters())


def test_every_step_uses_a_student_block_and_draws_repeat(teacher: TrainingModel) -> None:
    _, operation = begun(teacher, 2, ReplaceModules(start=0.1, ramp=False))
    drawn = []
    for step in range(60):
        operation.before_step(Moment(step=step, steps=1000, seed=4))
        drawn.append(tuple(operation.used))
    assert (False, False) not in drawn
    assert len(set(drawn)) >= 2
    operation.before_step(Moment(step=7, steps=1000, seed=4))
    assert tuple(operation.used) == drawn[7]


def test_the_student_takes_the_teachers_ends(teacher: TrainingModel) -> None:
    student, _ = begun(teacher)
    prefix = student.family.block_prefix(1).removesuffix("0.")
    mine, theirs = student.model.state_dict(), teacher.model.state_dict()
    ends = [name for name in mine if not name.startswith(prefix)]
    assert all(torch.equal(mine[name], theirs[name]) for name in ends)


@pytest.mark.parametrize(("change", "named"), [
    ({"layers": 5}, "blocks"), ({"width": 16}, "width"), ({"family": "roberta"}, "family"),
])  # fmt: skip
def test_blocks_that_cannot_follow_each_other_are_refused(change: dict, named: str) -> None:
    spec = make(*TEACHERS["bert"]).spec
    with pytest.raises(Unfit) as refusal:
        ReplaceModules().check(dataclasses.replace(spec, **change), spec)
    assert named in refusal.value.problem
    with pytest.raises(Unfit):
        ReplaceModules(start=0.0).check(spec, spec)


ROBERTA = RobertaConfig(
    **SILENT, vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=34, num_labels=3, initializer_range=0.2,
    pad_token_id=0,
)  # fmt: skip
DISTILBERT = DistilBertConfig(
    dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    vocab_size=60, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=32,
    num_labels=3, initializer_range=0.2,
)  # fmt: skip
ENCODERS = {
    "bert": (BertForSequenceClassification, BERT),
    "distilbert": (DistilBertForSequenceClassification, DISTILBERT),
    "roberta": (RobertaForSequenceClassification, ROBERTA),
}


@pytest.fixture(params=sorted(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> TrainingModel:
    return make(*ENCODERS[request.param])


def masked(student: TrainingModel, **settings: float) -> Masking:
    return L0Masks(**settings).begin(student, [])


def scramble(operation: Masking, seed: int = 0) -> None:
    """Give every unit a score of its own, some of them with gates between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for kind in KINDS:
            log_alpha = operation.module[kind]  # type: ignore[index]
            log_alpha.copy_(3 * torch.rand(log_alpha.shape, generator=generator) - 0.5)


def test_with_all_masks_open_the_student_is_itself(encoder: TrainingModel) -> None:
    plain = logits(encoder.model)
    operation = masked(encoder)
    with torch.no_grad():
        for kind in KINDS:
            operation.module[kind].fill_(50.0)  # type: ignore[index]
    encoder.model.train()
    operation.before_step(Moment(step=0, steps=10))
    torch.testing.assert_close(logits(encoder.model), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_healed_model_computes_what_the_masked_one_did(
    encoder: TrainingModel, sparsity: float, seed: int
) -> None:
    operation = masked(encoder, sparsity=sparsity)
    scramble(operation, seed)
    before = sum(p.numel() for p in encoder.model.parameters())
    expected = logits(encoder.model)
    operation.heal()
    found = logits(encoder.model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    after = encoder.family.spec(encoder.model.config.to_dict(), task="classify", num_labels=3)
    assert after.layers * after.block_params() <= (1 - sparsity) * 4 * encoder.spec.block_params()
    parameters = sum(p.numel() for p in encoder.model.parameters())
    assert parameters == after.params() < before


def test_a_healed_model_is_an_ordinary_one(encoder: TrainingModel, tmp_path: Path) -> None:
    operation = masked(encoder)
    scramble(operation)
    operation.heal()
    expected = logits(encoder.model)
    encoder.model.save_pretrained(tmp_path)
    loaded = type(encoder.model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), expected)
    for module in encoder.model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_shut_blocks_and_halves_compute_what_the_healed_model_does(
    encoder: TrainingModel,
) -> None:
    operation = masked(encoder, sparsity=0.3)
    scramble(operation)
    with torch.no_grad():
        operation.module["attention"].copy_(torch.tensor([5.0, -9.0, -9.0, 5.0]))  # type: ignore[index]
        operation.module["ffn"].copy_(torch.tensor([5.0, 5.0, -9.0, -9.0]))  # type: ignore[index]
    expected = logits(encoder.model)
    assert operation.cut.blocks == (0, 1, 3)
    operation.heal()
    torch.testing.assert_close(logits(encoder.model), expected, rtol=0, atol=1e-5)


def test_a_block_stands_while_one_of_its_halves_is_open(encoder: TrainingModel) -> None:
    operation = masked(encoder, sparsity=0.3, until=0.5)
    operation.before_step(Moment(step=0, steps=10))
    assert operation.standing == {1, 2, 3, 4}
    with torch.no_grad():
        operation.module["attention"].copy_(torch.tensor([50.0, -50, -50, 50]))  # type: ignore[index]
        operation.module["ffn"].copy_(torch.tensor([50.0, 50, -50, -50]))  # type: ignore[index]
    # As drawn before `until`, as cut after it.
    for step in (1, 5, 9):
        operation.before_step(Moment(step=step, steps=10))
        assert operation.standing == {1, 2, 4}
    assert operation.cut.blocks == (0, 1, 3)


def test_where_no_block_does_anything_all_stand(encoder: TrainingModel) -> None:
    operation = masked(encoder)
    with torch.no_grad():
        for kind in ("attention", "ffn"):
            operation.module[kind].fill_(-50.0)  # type: ignore[index]
    operation.before_step(Moment(step=0, steps=10))
    assert operation.standing is None


def test_expected_sparsity_is_the_part_that_goes() -> None:
    spec = make(*ENCODERS["bert"]).spec
    shut, wide = -50.0, 50.0
    scores = {kind: torch.full(shape, wide) for kind, shape in sizes(spec).items()}
    assert float(expected_sparsity(scores, spec)) == pytest.approx(0.0, abs=1e-6)
    scores["hidden"][:16] = shut
    assert float(expected_sparsity(scores, spec)) == pytest.approx(0.5)
    scores["hidden"][:] = wide
    scores["attention"][:] = shut
    # 4 d^2 of 4 d^2 + 2 d f.
    assert float(expected_sparsity(scores, spec)) == pytest.approx(4 * 32 / (4 * 32 + 2 * 48))
    scores["heads"][:] = shut
    assert float(expected_sparsity(scores, spec)) == pytest.approx(4 * 32 / (4 * 32 + 2 * 48))


def test_the_weakest_units_of_the_whole_model_go() -> None:
    spec = make(*ENCODERS["bert"]).spec
    scores = {kind: torch.full(shape, 5.0) for kind, shape in sizes(spec).items()}
    scores["inner"][:, 10:20] = -3.0
    scores["attention"][1] = scores["ffn"][1] = -4.0
    cut = best_cut(scores, spec, 0.3)
    assert cut.blocks == (0, 2, 3)
    assert (cut.spec.heads, cut.spec.width) == (4, 32)
    gone = set(range(48)) - set(cut.inner[2].tolist())
    assert gone < set(range(10, 20))
    # No more goes than must.
    left = 0.7 * 4 * spec.block_params()
    one_more = dataclasses.replace(cut.spec, ffn=cut.spec.ffn + 1)
    assert 3 * cut.spec.block_params() <= left < 3 * one_more.block_params()


def test_equal_scores_go_in_proportion() -> None:
    spec = make(*ENCODERS["bert"]).spec
    scores = {kind: torch.full(shape, 5.0) for kind, shape in sizes(spec).items()}
    cut = best_cut(scores, spec, 0.7)
    parts = (cut.spec.layers / 4, cut.spec.heads / 4, cut.spec.ffn / 48)
    assert min(parts) >= 0.5
    assert max(parts) <= 0.75


def test_lambdas_climb_while_masks_descend() -> None:
    student = make(*ENCODERS["bert"])
    operation = masked(student, sparsity=0.5, warmup=0.1, until=0.9)
    learned = operation.module
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.3)
    student.model.train()
    values = []
    for step in range(80):
        moment = Moment(step=step, steps=100, seed=1)
        operation.before_step(moment)
        penalty = operation.penalty(moment)
        assert penalty is not None
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        log_alpha = {k: learned[k].detach().view(s) for k, s in sizes(student.spec).items()}  # type: ignore[index]
        values.append(float(expected_sparsity(log_alpha, student.spec)))
    assert values[0] < 0.01
    assert max(values) > 0.4
    assert learned["lambda1"].item() != 0  # type: ignore[index]
    operation.before_step(Moment(step=90, steps=100, seed=1))
    assert operation.penalty(Moment(step=90, steps=100, seed=1)) is None


def test_a_fixed_shape_trains_as_it_will_be_evaluated(encoder: TrainingModel) -> None:
    operation = masked(encoder)
    scramble(operation)
    expected = logits(encoder.model)
    encoder.model.train()
    operation.before_step(Moment(step=9, steps=10))
    assert torch.equal(logits(encoder.model), expected)
    operation.before_step(Moment(step=0, steps=10, seed=1))
    first = logits(encoder.model)
    assert not torch.allclose(first, expected, atol=1e-3)
    operation.before_step(Moment(step=1, steps=10, seed=1))
    assert not torch.equal(logits(encoder.model), first)
    operation.before_step(Moment(step=0, steps=10, seed=1))
    assert torch.equal(logits(encoder.model), first)


def test_masks_get_gradients_from_the_loss(encoder: TrainingModel) -> None:
    operation = masked(encoder)
    scramble(operation)
    encoder.model.train()
    operation.before_step(Moment(step=0, steps=10))
    logits(encoder.model).square().sum().backward()
    for kind in KINDS:
        assert operation.module[kind].grad.abs().max() > 0  # type: ignore[index]


@pytest.mark.parametrize(("settings", "named"), [
    ({"sparsity": 0.0}, "sparsity"), ({"sparsity": 0.999}, "less than one block"),
    ({"warmup": 0.9}, "warmup"),
])  # fmt: skip
def test_settings_that_cannot_be_met_are_refused(settings: dict, named: str) -> None:
    spec = make(*ENCODERS["bert"]).spec
    with pytest.raises(Unfit) as refusal:
        L0Masks(**settings).check(spec, spec)
    assert named in refusal.value.problem


def test_decoders_are_refused() -> None:
    spec = make(*TEACHERS["llama"]).spec
    with pytest.raises(Unfit) as refusal:
        L0Masks().check(spec, spec)
    assert "llama" in refusal.value.problem
    assert "bert" in refusal.value.way_out
