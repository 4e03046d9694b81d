"""Models of every family and task read from folders, with and without a head of their own."""

from pathlib import Path

import pytest
import torch

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model, load_tokenizer, save_model
from toolchain.spec import LABELLED, SEQUENCE, Task


@pytest.mark.parametrize(("name", "task"), zoo.HEADS)
def test_a_saved_model_computes_the_same_after_loading(
    name: str, task: Task, tmp_path: Path
) -> None:
    model = zoo.make(name, task)
    folder = zoo.save(model, tmp_path / "first")
    loaded = load_model(folder, task)
    assert type(loaded) is type(model)
    assert not loaded.training
    inputs = zoo.batch(name)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs)[0], model(**inputs)[0])
    save_model(loaded, tmp_path / "second")
    zoo.tokenizer().save_pretrained(tmp_path / "second")
    assert inspect(str(tmp_path / "second")).task == inspect(str(folder)).task


@pytest.mark.parametrize(("name", "task"), [h for h in zoo.HEADS if h[1] in LABELLED])
def test_a_bare_model_gets_a_head_that_follows_from_the_seed(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make(name, "encode"), tmp_path / "bare")
    labels = None if task in ("regress", "qa") else {0: "a", 1: "b"}
    first, again, other = (load_model(folder, task, labels=labels, seed=s) for s in (3, 3, 4))
    last = inspect(str(folder)).family.head(task).last
    rows = 1 if task == "regress" else 2
    assert first.get_submodule(last).weight.shape[0] == rows
    weights = [model.get_submodule(last).weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    save_model(first, tmp_path / "headed")
    zoo.tokenizer().save_pretrained(tmp_path / "headed")
    found = inspect(str(tmp_path / "headed"))
    # Where an answer begins and where it ends are no classes.
    assert (found.task, found.spec.num_labels) == (task, 0 if task == "qa" else rows)
    assert found.labels == (labels or {})


def test_weights_of_half_precision_become_fp32(tmp_path: Path) -> None:
    model = zoo.make("qwen3", "causal_lm").to(torch.bfloat16)
    loaded = load_model(zoo.save(model, tmp_path), "causal_lm")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", zoo.DECODERS)
@pytest.mark.parametrize("pad", [True, False])
def test_a_decoder_classifies_at_the_last_real_token(name: str, pad: bool, tmp_path: Path) -> None:
    model = zoo.make(name, pad_token_id=None)
    folder = zoo.save(model, tmp_path, pad=pad)
    loaded = load_model(folder, "classify")
    tokenizer = load_tokenizer(folder)
    # Id 0 pads; where the tokenizer has no padding token, its end-of-text token (2) does.
    assert loaded.config.pad_token_id == tokenizer.pad_token_id == (0 if pad else 2)
    texts = ["abcde", "fg hi", "j"]
    alone = [loaded(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    padded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    together = loaded(**padded).logits
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_padding_is_left_alone_where_no_token_is_looked_for(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("llama", "causal_lm", pad_token_id=None), tmp_path)
    assert load_model(folder, "causal_lm").config.pad_token_id is None


def test_a_padding_token_the_model_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("gpt2"), tmp_path)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match="padding token has the id 50, the model has 50 token"):
        load_model(folder, "classify")


def test_a_tokenizer_without_padding_and_end_is_refused(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("gpt2"), tmp_path)
    tokenizer = zoo.tokenizer(pad=False)
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    for file in tmp_path.glob("*token*"):
        file.unlink()
    bare.save_pretrained(folder)
    with pytest.raises(UsageError, match="neither a padding nor an end-of-text token"):
        load_tokenizer(folder)


def test_a_head_the_family_cannot_have_is_refused(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("gpt2", "encode"), tmp_path)
    with pytest.raises(UsageError, match="gpt2 models have no head for mask_lm"):
        load_model(folder, "mask_lm")


@pytest.mark.parametrize("task", sorted(SEQUENCE))
def test_the_problem_type_is_written_down(task: Task, tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert", "encode"), tmp_path)
    labels = None if task in ("regress", "qa") else {0: "a", 1: "b"}
    problem = load_model(folder, task, labels=labels).config.problem_type
    assert problem is not None
    assert problem.split("_")[0] == {"classify": "single", "multi_label": "multi"}.get(
        task, "regression"
    )
