"""The tokenizer travels with the model, and is proved to arrive unchanged."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolchain.artifact import write_atomic
from toolchain.errors import IntegrityError, UsageError

__all__ = ["PROBES", "save_tokenizer", "write_vocabulary"]

# What tokenizers are known to treat differently: accents in both forms, scripts without spaces,
# joined emoji, control and zero-width characters, words past the length limit of WordPiece.
PROBES = (
    "",
    " ",
    "a plain sentence , with punctuation !",
    "UPPER and MiXeD case don't-split it's 3.14 1,000 $5 50%",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul \ufb01ne",
    "\u4e2d\u6587\u5206\u8bcd \u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "tab\there\nnew\r\nline\x00nul\x07bell\x7fdel\u200bzero\ufeffmark\u00a0nbsp\u2028sep\ufffd",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "x" * 2000,
    "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <mask> <pad>",
    "\u201cquotes\u201d \u2014 dash \u2026 \u20ac \u00bd \u2122 http://a.b/c?d=e&f#g user@mail.org",
)

# Where a tokenizer was loaded from is a fact of the machine, not of the tokenizer.
_LOCAL_KEYS = ("is_local", "local_files_only", "name_or_path")


def save_tokenizer(source: Path, out: Path) -> None:
    """Write the tokenizer of model folder `source` into folder `out`.

    Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json where the installed
    transformers keeps one, and vocab.txt for a WordPiece tokenizer, which device code reads.

    Raises UsageError without a tokenizer that the `tokenizers` library can run, IntegrityError
    when the written one gives other ids than the source on the probing texts.
    """
    tokenizer = _load(source)
    out.mkdir(parents=True, exist_ok=True)
    # Before anything is encoded: a call leaves its padding and truncation in the saved state.
    tokenizer.save_pretrained(out)
    _keep_shared_ids(source, out)
    _drop_local_facts(out / "tokenizer_config.json")
    write_vocabulary(out)
    _prove_equal(tokenizer, _load(out), source)


def _load(folder: Path) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer.json"
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, expected one with a tokenizer")
    if path.is_file():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UsageError(f"{path}: cut short or damaged: {error}") from None
    elif not (folder / "vocab.txt").is_file():
        # Others can be converted on the fly only with packages that may be missing on a device.
        raise UsageError(
            f"{folder}: no tokenizer.json or vocab.txt",
            "load its tokenizer with transformers and save_pretrained it there",
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UsageError(f"{folder}: its tokenizer cannot be loaded: {reason}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(
            f"{folder}: {type(tokenizer).__name__} is not a fast tokenizer",
            "only tokenizers that the tokenizers library can run also run on devices",
        )
    return tokenizer


def _keep_shared_ids(source: Path, out: Path) -> None:
    """Copy a tokenizer.json in which tokens share ids: saving it would lose all but one of each."""
    path = source / "tokenizer.json"
    text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
    tokens = json.loads(text).get("model", {}).get("vocab")
    if isinstance(tokens, dict) and len(set(tokens.values())) < len(tokens):
        write_atomic(out / "tokenizer.json", text)


def _drop_local_facts(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _LOCAL_KEYS}
    text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomic(path, text + "\n")


def write_vocabulary(out: Path) -> None:
    """Write vocab.txt beside the tokenizer.json of a WordPiece tokenizer, for device code.

    A line's number is its token's id. No file where some token has no line of its own.
    """
    content = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    if content["model"].get("type") != "WordPiece":
        return
    ids = dict(content["model"]["vocab"])
    ids.update((entry["content"], entry["id"]) for entry in content.get("added_tokens", []))
    tokens = sorted(ids.items(), key=lambda item: item[1])
    numbered = [number for _, number in tokens] == list(range(len(tokens)))
    if not numbered or any(len(token.splitlines()) != 1 for token, _ in tokens):
        # Such a vocabulary has no line per id; tokenizer.json holds all of it.
        (out / "vocab.txt").unlink(missing_ok=True)
        return
    write_atomic(out / "vocab.txt", "".join(f"{token}\n" for token, _ in tokens))


def _prove_equal(
    source: PreTrainedTokenizerFast, written: PreTrainedTokenizerFast, where: Path
) -> None:
    for text in PROBES:
        for pair in (None, "a second text"):
            expected = source(text, pair, truncation=False, padding=False)["input_ids"]
            found = written(text, pair, truncation=False, padding=False)["input_ids"]
            if found != expected:
                raise IntegrityError(
                    f"{where}: the saved tokenizer gives {found[:8]} for {text[:24]!r}, "
                    f"the original {expected[:8]}",
                    "the tokenizer does not survive saving; save it with the transformers "
                    "release that made it",
                )
    if (source.model_max_length, source.get_vocab()) != (
        written.model_max_length,
        written.get_vocab(),
    ):
        raise IntegrityError(f"{where}: the saved tokenizer has another vocabulary or length limit")
