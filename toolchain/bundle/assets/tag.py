"""Tag the words of a text with the model beside this file.

    python tag.py "a text" "another text"
    python tag.py < texts.txt
    python tag.py --words "a text whose words stand apart , signs too"
    python tag.py --json "a text"

One line per word, `word <TAB> tag <TAB> probability <TAB> start <TAB> end`, and an empty line after
each text; start and end count characters of the text. With --json one object per text, which also
joins words of B- and I- tags to entities. Words are what stands between blanks, with the signs at
their ends as words of their own; with --words they are taken as they stand, as in the data the
model was trained on. A text longer than the model takes is tagged part by part. A word that the
tokenizer does not see (a zero-width sign) has no tag, which is written as -.

Input and output are UTF-8. Needs onnxruntime, tokenizers and numpy, nothing else; as a module it
offers `Tagger`.

Exit codes: 0 done, 4 a file of this folder is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

__all__ = ["BundleError", "Tagger", "Word", "main", "split"]

Row = tuple[str, ...]
"""The words of one text."""

_OPENING = "\"'`([{<\u201c\u2018\u00ab\u00bf\u00a1"
_CLOSING = "\"'`)]}>.,;:!?\u201d\u2019\u00bb\u2026"


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Word(NamedTuple):
    """A word, where it stands in its text, and what the model says of it."""

    word: str
    start: int
    end: int
    tag: str | None = None
    probability: float | None = None


class Tagger:
    """Tokenizer and model of one folder. Shape letters: B rows, N tokens, C tags."""

    runtime_version = str(onnxruntime.__version__)

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about["task"])
            self.labels = tuple(str(label) for label in about["labels"])
            self._inputs = tuple(str(name) for name in about["inputs"])
            self._output = str(about["output"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        if self.task != "tag":
            raise BundleError(f"bundle.json: the task is {self.task!r}, expected 'tag'")
        self._session = _open_model(folder / "model.onnx", provider, threads)

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids, each (B, N), cut to the model's length and padded."""
        encodings = self._tokenizer.encode_batch([list(row) for row in rows], is_pretokenized=True)
        return _feed(encodings)

    def places(self, row: Row) -> list[int]:
        """Return the first token of each word that has one, as far as the model's length goes."""
        (encoding,) = self._tokenizer.encode_batch([list(row)], is_pretokenized=True)
        return list(_first_tokens(encoding).values())

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the model's raw scores (B, N, C). Raises BundleError when it cannot run."""
        wanted = {name: feed[name] for name in self._inputs}
        try:
            logits = np.asarray(self._session.run([self._output], wanted)[0], dtype=np.float32)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        expected = (*wanted["input_ids"].shape, len(self.labels))
        if logits.shape != expected:
            raise BundleError(f"model.onnx: answers {logits.shape}, expected {expected}")
        return logits

    def tag(self, words: Sequence[Word]) -> list[Word]:
        """Return the words of one text with their tags."""
        found = list(words)
        start = 0
        while start < len(words):
            rest = [word.word for word in words[start:]]
            (encoding,) = self._tokenizer.encode_batch([rest], is_pretokenized=True)
            scores_NC = self.logits(_feed([encoding]))[0].astype(np.float64)
            firsts = _first_tokens(encoding)
            for number, position in firsts.items():
                powers = np.exp(scores_NC[position] - scores_NC[position].max())
                best = int(powers.argmax())
                tag, probability = self.labels[best], float(powers[best] / powers.sum())
                found[start + number] = words[start + number]._replace(
                    tag=tag, probability=probability
                )
            if not encoding.overflowing or not firsts:
                break
            start += max(firsts) + 1
        return found


def split(text: str, *, apart: bool = False) -> list[Word]:
    """Return the words of a text; with `apart`, what stands between blanks is left whole."""
    words: list[Word] = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        tail: list[Word] = []
        while not apart and end - start > 1 and text[start] in _OPENING:
            words.append(Word(text[start], start, start + 1))
            start += 1
        while not apart and end - start > 1 and text[end - 1] in _CLOSING:
            tail.append(Word(text[end - 1], end - 1, end))
            end -= 1
        words += [Word(text[start:end], start, end), *reversed(tail)]
    return words


def _first_tokens(encoding: Encoding) -> dict[int, int]:
    """Return the first token of each word by the word's number."""
    firsts: dict[int, int] = {}
    for position, number in enumerate(encoding.word_ids):
        if number is not None:
            firsts.setdefault(number, position)
    return firsts


def _feed(encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
    return {
        "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
        "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
    }


def _entities(words: Sequence[Word], text: str) -> list[dict[str, object]]:
    """Return what B- and I- tags join, from character to character of the text."""
    found: list[tuple[str, int, int]] = []
    before = ""
    for word in words:
        prefix, _, name = (word.tag or "O").partition("-")
        inside = prefix == "I" and name == before and found
        if prefix in ("B", "I") and name:
            found.append((name, found.pop()[1] if inside else word.start, word.end))
        before = name if prefix in ("B", "I") else ""
    return [{"label": n, "start": s, "end": e, "text": text[s:e]} for n, s, e in found]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path.name}: expected an object, found {type(content).__name__}")
    return content


def _open_tokenizer(path: Path, about: Mapping[str, Any]) -> Tokenizer:
    settings = about["tokenizer"]
    max_tokens, side = int(about["max_tokens"]), str(settings["truncation_side"])
    pad_id, pad_type_id = int(settings["pad_id"]), int(settings["pad_type_id"])
    pad_token = str(settings["pad_token"])
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower.
        raise BundleError(f"{path.name}: cannot be read: {_first_line(error)}") from error
    tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction=side)
    tokenizer.enable_padding(
        direction="right", pad_id=pad_id, pad_type_id=pad_type_id, pad_token=pad_token
    )
    return tokenizer


def _open_model(path: Path, provider: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no narrower base.
        raise BundleError(f"{path.name}: cannot be opened: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _texts(texts: Sequence[str]) -> Iterator[str]:
    """Return the texts asked about: from the arguments, or else from the lines of stdin."""
    if texts:
        yield from texts
        return
    for raw in sys.stdin.buffer:
        yield raw.decode("utf-8", errors="replace").rstrip("\r\n")


def _answer(tagger: Tagger, text: str, *, apart: bool, as_json: bool) -> str:
    words = tagger.tag(split(text, apart=apart))
    if as_json:
        found = [word._asdict() for word in words]
        return json.dumps({"text": text, "words": found, "entities": _entities(words, text)}) + "\n"
    lines = [
        f"{w.word}\t{'-' if w.tag is None else w.tag}\t{w.probability or 0:.4f}\t{w.start}\t{w.end}"
        for w in words
    ]
    return "".join(f"{line}\n" for line in [*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Tag words with the model beside this file.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: the lines of stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per text")
    parser.add_argument("--words", action="store_true", help="words are set apart by blanks")
    options = parser.parse_args(arguments)
    try:
        tagger = Tagger(Path(__file__).resolve().parent)
        for text in _texts(options.texts):
            answer = _answer(tagger, text, apart=options.words, as_json=options.json)
            sys.stdout.buffer.write(answer.encode("utf-8"))
            sys.stdout.buffer.flush()
    except BundleError as error:
        print(f"tag.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
