"""What sentence-transformers writes in a folder, and encoders that pool as it says."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.conftest import make_teacher
from tests.unit.models.zoo import ENCODERS, config_of
from toolchain.errors import UsageError
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.embedder import SentenceEncoder, pooled
from toolchain.models.family import families, family_of
from toolchain.models.loading import load_model, new_model, save_model
from toolchain.models.sentence import FILES, Sentence, read_sentence, write_sentence


def states() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return torch.randn(2, 4, 3, generator=generator), mask


@pytest.mark.parametrize("pooling", ["cls", "max", "mean"])
def test_padding_never_changes_a_vector(pooling) -> None:
    states_BND, mask = states()
    garbage = states_BND.clone()
    garbage[1, 2:] = 99.0
    found = pooled(garbage, mask, pooling)
    expected = {
        "cls": lambda row: row[0],
        "max": lambda row: row.max(0).values,
        "mean": lambda row: row.mean(0),
    }[pooling]
    for b, count in enumerate((4, 2)):
        torch.testing.assert_close(found[b], expected(states_BND[b, :count]))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_sentence(tmp_path) is None
    for sentence in (Sentence(), Sentence(pooling="cls", normalize=False, max_tokens=12)):
        write_sentence(tmp_path, sentence, width=32)
        assert read_sentence(tmp_path) == sentence
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json")} == set(FILES)


def test_names_of_newer_releases_are_read(tmp_path: Path) -> None:
    write_sentence(tmp_path, Sentence(), width=32)
    kinds = ("base.modules.Transformer", "sentence_transformer.modules.Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(zip(("", "1_Pooling"), kinds, strict=True))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    settings = {"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert read_sentence(tmp_path) == Sentence(pooling="max", normalize=False)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", "{", "cannot be read"),
        ("modules.json", "{}", "expected a JSON list, found dict"),
        ("modules.json", '["x"]', "expected a list of modules"),
        (
            "modules.json",
            json.dumps([{"type": f"m.{kind}"} for kind in ("Transformer", "Pooling", "Dense")]),
            "its modules are Transformer, Pooling, Dense",
        ),
        (
            "modules.json",
            json.dumps([{"type": "m.Transformer", "path": "0_Transformer"}, {"type": "m.Pooling"}]),
            "its encoder lies in '0_Transformer'",
        ),
        ("1_Pooling/config.json", '{"pooling_mode_lasttoken": true}', "pooling_mode_lasttoken"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}',
            "its pooling is cls and mean",
        ),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "lower case"),
    ],
)
def test_a_folder_that_means_something_else_is_refused(
    tmp_path: Path, file: str, content: str, said: str
) -> None:
    make_teacher(tmp_path, head=False)
    write_sentence(tmp_path, Sentence(), width=32)
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        inspect(str(tmp_path))
    assert caught.value.message.startswith(f"teacher {tmp_path}: ")


def test_a_folder_says_what_it_is_and_its_pooling_is_in_its_digest(tmp_path: Path) -> None:
    make_teacher(tmp_path, head=False)
    bare = inspect(str(tmp_path))
    write_sentence(tmp_path, Sentence(), width=32)
    mean = inspect(str(tmp_path))
    write_sentence(tmp_path, Sentence(pooling="cls"), width=32)
    first = inspect(str(tmp_path))
    assert (bare.task, mean.task, mean.has_head) == ("encode", "embed", False)
    assert (bare.sentence, first.sentence) == (None, Sentence(pooling="cls"))
    assert len({bare.digest, mean.digest, first.digest}) == 3


def test_a_model_is_saved_as_its_bare_encoder(tmp_path: Path) -> None:
    source = make_teacher(tmp_path / "source", head=True)
    write_sentence(source, Sentence(pooling="max", normalize=False), width=32)
    model = load_model(source, "embed")
    save_model(model, tmp_path)
    assert "sentence" not in json.loads((tmp_path / "config.json").read_text())
    assert model.config.sentence["pooling"] == "max"
    bare = AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        given = model(input_ids=ids, attention_mask=mask).logits
        expected = pooled(bare(input_ids=ids, attention_mask=mask)[0], mask, "max")
        again = load_model(tmp_path, "embed")(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(given, expected)
    assert torch.equal(given, again)
    shape = family_of("bert").spec(model.config.to_dict(), task="embed")
    assert shape.params() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_embeds_and_has_students(name: str) -> None:
    model = new_model(config_of(name, "encode"), "embed")
    family = family_of(model.config.model_type)
    spec = family.spec(model.config.to_dict(), task="embed")
    assert spec.params() == sum(p.numel() for p in model.parameters())
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        vectors = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert vectors.shape == (1, spec.width)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(1))
    student = build_student(model, family, spec.reshaped(layers=1), "teacher_first_k", seed=0)
    assert isinstance(student, SentenceEncoder)
    assert student.sentence == Sentence()


def test_decoders_do_not_embed() -> None:
    with pytest.raises(UsageError, match="llama models have no head for embed"):
        families.get("llama").head("embed")
