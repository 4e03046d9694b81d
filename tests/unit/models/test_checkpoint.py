"""What inspecting a folder says of every family and task, and which folders it refuses."""

from pathlib import Path

import pytest
import torch

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.models.checkpoint import inspect
from toolchain.spec import LABELLED, Task


def folder_of(name: str, task: Task, path: Path, **changes: object) -> Path:
    return zoo.save(zoo.make(name, task, **changes), path)


@pytest.mark.parametrize(("name", "task"), zoo.EVERY)
def test_a_saved_model_is_found_with_its_task_shape_and_labels(
    name: str, task: Task, tmp_path: Path
) -> None:
    model = zoo.make(name, task)
    found = inspect(str(zoo.save(model, tmp_path)))
    tied_decoder = name in zoo.DECODERS and found.spec.parts.tied
    expected = "causal_lm" if tied_decoder and task == "encode" else task
    assert found.task == expected
    assert found.has_head == (task in LABELLED)
    classes = task in ("classify", "multi_label", "tag")
    assert found.labels == (zoo.LABELS if classes else {})
    assert found.spec.num_labels == {"regress": 1}.get(task, 3 if classes else 0)
    assert found.lm_head == (tied_decoder or task in ("mask_lm", "causal_lm"))
    assert found.spec.params() == zoo.parameters(model)
    assert found.notes == ()


@pytest.mark.parametrize("name", zoo.SETTINGS)
@pytest.mark.parametrize("task", ["classify", "tag"])
def test_without_architectures_the_tensors_tell_the_head(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = folder_of(name, task, tmp_path)
    zoo.edit_config(folder, architectures=None)
    assert inspect(str(folder)).task == task


def test_a_tagger_that_kept_its_pooler_is_a_tagger_by_its_architecture(tmp_path: Path) -> None:
    folder = folder_of("bert", "classify", tmp_path)
    zoo.edit_config(folder, architectures=["BertForTokenClassification"])
    assert inspect(str(folder)).task == "tag"


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_a_language_model_without_prefixes_is_found(name: str, tmp_path: Path) -> None:
    # As the hub's gpt2 is saved: an architecture with a head, tensors of the bare model.
    task = zoo.tasks_of(name)[-2]
    folder = folder_of(name, task, tmp_path)
    prefix = f"{inspect(str(folder)).family.backbone}."

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for key in [k for k in tensors if k.startswith(prefix)]:
            tensors[key.removeprefix(prefix)] = tensors.pop(key)

    zoo.edit_weights(folder, strip)
    found = inspect(str(folder))
    assert found.task == task
    assert found.lm_head


def test_heads_that_are_not_ours_leave_a_bare_model(tmp_path: Path) -> None:
    folder = folder_of("bert", "classify", tmp_path)
    for architecture in ("BertForMultipleChoice", "BertForQuestionAnswering"):
        zoo.edit_config(folder, architectures=[architecture])
        found = inspect(str(folder))
        assert (found.task, found.has_head, found.labels) == ("encode", False, {})


def test_one_row_without_a_problem_type_is_a_regression(tmp_path: Path) -> None:
    folder = folder_of("roberta", "regress", tmp_path)
    zoo.edit_config(folder, problem_type=None)
    found = inspect(str(folder))
    assert (found.task, found.labels, found.spec.num_labels) == ("regress", {}, 1)


@pytest.mark.parametrize(
    ("problem", "task"),
    [
        (None, "classify"),
        ("single_label_classification", "classify"),
        ("multi_label_classification", "multi_label"),
    ],
)
def test_the_problem_type_tells_single_from_multi_label(
    problem: str | None, task: str, tmp_path: Path
) -> None:
    folder = folder_of("distilbert", "classify", tmp_path)
    zoo.edit_config(folder, problem_type=problem)
    assert inspect(str(folder)).task == task


def test_a_decoder_without_a_padding_token_is_noted(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("llama"), tmp_path, pad=False)
    assert inspect(str(folder)).notes == (
        "the tokenizer has no padding token: its end-of-text token pads",
    )


REFUSED = [
    ("bert", {"problem_type": "ranking"}, "its problem_type is 'ranking'"),
    ("bert", {"problem_type": "regression"}, "a regression with 3 scores"),
    ("gpt2", {"id2label": {"0": "a"}}, "id2label names 1 classes, the head has 3 rows"),
    ("llama", {"num_key_value_heads": 3}, "3 key-value heads do not divide 4 heads"),
    ("llama", {"num_key_value_heads": 4}, "k_proj.weight' has shape [16, 32], config.json says"),
    ("qwen3", {"head_dim": 5}, "rotary positions turn pairs of features, but heads are 5 wide"),
    ("qwen2", {"num_hidden_layers": 6}, "the weights lack 'model.layers.4.self_attn.q_proj"),
    ("gpt2", {"vocab_size": 51}, "'transformer.wte.weight' has shape [50, 32]"),
    ("gpt2", {"n_embd": 64}, "'transformer.h.0.attn.c_attn.weight' has shape [32, 96]"),
    ("electra", {"embedding_size": 8}, "says [50, 8]"),
    ("deberta-v3", {"conv_kernel_size": 3}, "config.json: 'conv_kernel_size' is 3"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED)
def test_a_folder_that_contradicts_itself_is_refused(
    name: str, changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    folder = folder_of(name, "classify", tmp_path)
    zoo.edit_config(folder, **changes)
    with pytest.raises(UsageError) as refused:
        inspect(str(folder))
    assert str(refused.value).startswith(f"teacher {folder}: ")
    assert sentence in str(refused.value)


def test_half_a_head_is_refused(tmp_path: Path) -> None:
    folder = folder_of("distilbert", "classify", tmp_path)
    zoo.edit_weights(
        folder, lambda t: [t.pop(f"pre_classifier.{part}") for part in ("weight", "bias")]
    )
    with pytest.raises(UsageError, match=r"a head for classify, the weights lack 'pre_classifier"):
        inspect(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_values_that_are_not_finite_are_found_in_any_precision(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = folder_of("llama", "causal_lm", tmp_path)
    zoo.edit_weights(folder, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    assert inspect(str(folder)).task == "causal_lm"
    zoo.edit_weights(folder, lambda t: t["model.norm.weight"].__setitem__(3, float("nan")))
    with pytest.raises(UsageError, match=r"'model.norm.weight' in .* holds values"):
        inspect(str(folder))
