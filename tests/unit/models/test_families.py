"""Every family's description against the models transformers builds from a configuration."""

import pytest

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.models.family import families, family_of
from toolchain.spec import Task


@pytest.mark.parametrize(("name", "task"), zoo.EVERY)
def test_parameters_are_counted_exactly(name: str, task: Task) -> None:
    model = zoo.make(name, task)
    family = family_of(model.config.model_type)
    labels = {"classify": 3, "multi_label": 3, "tag": 3, "regress": 1}.get(task, 0)
    spec = family.spec(model.config.to_dict(), task=task, num_labels=labels)
    assert spec.problem() is None
    assert spec.params() == zoo.parameters(model)
    block = model.get_submodule(f"{family.blocks}.0") if task == "encode" else None
    if block is not None:
        assert spec.block_params() == sum(p.numel() for p in block.parameters())
        assert task in family.tasks


@pytest.mark.parametrize("name", zoo.DECODERS)
def test_an_untied_language_head_is_counted(name: str) -> None:
    model = zoo.make(name, "causal_lm", tie_word_embeddings=False)
    spec = family_of(model.config.model_type).spec(model.config.to_dict(), task="causal_lm")
    assert not spec.parts.tied
    assert spec.params() == zoo.parameters(model)


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_a_reshaped_spec_is_what_its_configuration_builds(name: str) -> None:
    teacher = zoo.config_of(name)
    family = family_of(teacher.model_type)
    spec = family.spec(teacher.to_dict(), task="classify", num_labels=3)
    student = spec.reshaped(layers=2, width=24, ffn=40)
    assert student.problem() is None
    changes = family.config_changes(student)
    if "layer_types" in teacher.to_dict():
        changes = {**changes, "layer_types": teacher.layer_types[:2]}
    assert student.params() == zoo.parameters(zoo.make(name, **changes))
    assert student.heads // student.kv_heads == spec.heads // spec.kv_heads
    assert student.max_tokens == spec.max_tokens


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_paths_lead_to_modules(name: str) -> None:
    model = zoo.make(name)
    family = family_of(model.config.model_type)
    spec = family.spec(model.config.to_dict(), task="classify", num_labels=3)
    backbone = model.get_submodule(family.backbone)
    assert backbone.get_submodule(family.tokens).weight.shape == (50, spec.embedding_width)
    assert len(list(backbone.get_submodule(family.blocks).children())) == 4
    assert model.get_submodule(family.head("classify").last).weight.shape[0] == 3
    assert family.block_prefix(2) + family.query + ".weight" in model.state_dict()


def test_positions_counted_from_behind_the_padding_id_leave_fewer_tokens() -> None:
    for name, tokens in (("bert", 40), ("roberta", 38), ("xlm-roberta", 38), ("mpnet", 38)):
        config = zoo.config_of(name)
        assert family_of(config.model_type).spec(config.to_dict()).max_tokens == tokens


def test_every_family_is_in_the_zoo() -> None:
    seen = {family_of(model_type).name for model_type, _ in zoo.SETTINGS.values()}
    assert seen == set(families.names())


def test_an_unknown_model_type_says_what_is_missing() -> None:
    with pytest.raises(UsageError) as refused:
        family_of("mamba")
    said = str(refused.value)
    assert "model_type 'mamba' is not supported" in said
    assert "no family says where its embeddings, blocks, projections and heads are" in said
    assert "xlm-roberta" in said
    assert "toolchain/models/families" in said


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("bert", {"is_decoder": True}, "'is_decoder' is True"),
        ("bert", {"position_embedding_type": "relative_key"}, "is 'relative_key'"),
        ("deberta-v2", {"conv_kernel_size": 3}, "'conv_kernel_size' is 3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx' is True"),
        ("llama", {"hidden_size": "wide"}, "'hidden_size' should be an integer, found 'wide'"),
        ("llama", {"attention_bias": 3}, "'attention_bias' should be true or false, found 3"),
    ],
)
def test_a_setting_that_is_not_described_is_refused(
    name: str, changes: dict[str, object], sentence: str
) -> None:
    config = {**zoo.config_of(name).to_dict(), **changes}
    with pytest.raises(UsageError, match=r"^config.json") as refused:
        family_of(str(config["model_type"])).spec(config)
    assert sentence in str(refused.value)


def test_a_head_a_family_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match="gpt2 models have no head for mask_lm"):
        families.get("gpt2").head("mask_lm")
    with pytest.raises(
        UsageError, match="their tasks: classify, multi_label, regress, tag, qa, mask"
    ):
        families.get("bert").head("causal_lm")


def test_keys_that_old_files_leave_out_have_their_usual_value() -> None:
    config = zoo.config_of("llama").to_dict()
    for key in ("num_key_value_heads", "head_dim", "attention_bias", "tie_word_embeddings"):
        config.pop(key, None)
    spec = families.get("llama").spec(config)
    assert (spec.kv_heads, spec.head_width, spec.parts.tied) == (4, 8, False)
    gpt2 = {**zoo.config_of("gpt2").to_dict(), "n_inner": None}
    assert families.get("gpt2").spec(gpt2).ffn == 128
