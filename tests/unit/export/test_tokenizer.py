"""The tokenizer travels: the same ids on the other side, or a refusal."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, CanineTokenizer, PreTrainedTokenizerFast

from toolchain.errors import IntegrityError, UsageError
from toolchain.export.tokenizer import PROBES, save_tokenizer, write_vocabulary


def byte_level(folder: Path) -> Path:
    """Write a byte-level BPE tokenizer, as RoBERTa's relatives have."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "th"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_the_saved_tokenizer_gives_the_same_ids(teacher_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(teacher_folder, tmp_path)
    source = AutoTokenizer.from_pretrained(teacher_folder)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    saved.no_truncation()
    saved.no_padding()
    for text in (*PROBES, "turn the lamp on please"):
        expected = source(text, truncation=False)["input_ids"]
        assert saved.encode(text).ids == expected, text


def test_saving_repeats_to_the_byte(teacher_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(teacher_folder, tmp_path / "once")
    save_tokenizer(tmp_path / "once", tmp_path / "twice")
    names = {path.name for path in (tmp_path / "once").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "vocab.txt"} <= names
    for name in ("tokenizer.json", "vocab.txt"):
        first = (tmp_path / "once" / name).read_bytes()
        assert first == (tmp_path / "twice" / name).read_bytes()


def test_the_line_number_in_vocab_txt_is_the_id(teacher_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(teacher_folder, tmp_path)
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert (
        dict(zip(lines, range(len(lines)), strict=True))
        == AutoTokenizer.from_pretrained(teacher_folder).get_vocab()
    )


def test_a_tokenizer_made_from_vocab_txt_alone_gets_a_tokenizer_json(
    teacher_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vocab.txt", "config.json"):
        (source / name).write_bytes((teacher_folder / name).read_bytes())
    save_tokenizer(source, tmp_path / "out")
    saved = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    expected = AutoTokenizer.from_pretrained(teacher_folder)("turn the lamp on")["input_ids"]
    assert saved.encode("turn the lamp on").ids == expected


def test_other_kinds_get_no_vocab_txt(tmp_path: Path) -> None:
    save_tokenizer(byte_level(tmp_path / "source"), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "tokenizer.json" in names
    assert "vocab.txt" not in names


def test_nothing_of_the_machine_is_written(teacher_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(teacher_folder, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"is_local", "local_files_only", "name_or_path"} & set(config)
    for path in tmp_path.iterdir():
        assert str(teacher_folder) not in path.read_text(encoding="utf-8")


def test_a_tokenizer_that_does_not_survive_saving_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedTokenizerFast.save_pretrained

    def save_and_break(self: PreTrainedTokenizerFast, folder: Path) -> None:
        save(self, folder)
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
        path.write_text(json.dumps(content), encoding="utf-8")

    source = byte_level(tmp_path / "source")
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", save_and_break)
    with pytest.raises(IntegrityError, match="the saved tokenizer gives"):
        save_tokenizer(source, tmp_path / "out")


def test_folders_without_a_fast_tokenizer_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no such folder"):
        save_tokenizer(tmp_path / "missing", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"no tokenizer\.json or vocab\.txt"):
        save_tokenizer(empty, out)
    slow = tmp_path / "slow"
    CanineTokenizer().save_pretrained(slow)
    (slow / "vocab.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="CanineTokenizer is not a fast tokenizer"):
        save_tokenizer(slow, out)
    assert not out.exists()


def test_a_damaged_tokenizer_json_is_refused(teacher_folder: Path, tmp_path: Path) -> None:
    whole = (teacher_folder / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cut short or damaged"):
        save_tokenizer(tmp_path, tmp_path / "out")


def test_an_exported_folder_gets_vocab_txt_though_its_source_had_none(
    teacher_folder: Path, tmp_path: Path
) -> None:
    save_tokenizer(teacher_folder, tmp_path)
    expected = (tmp_path / "vocab.txt").read_bytes()
    (tmp_path / "vocab.txt").unlink()
    write_vocabulary(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == expected
