"""Answer questions about a text with the model beside this file: the answer is a part of the text.

    python answer.py "a question" "the text that holds its answer"
    python answer.py < rows.txt
    python answer.py --json "a question" "the text"

One line per question, `answer <TAB> score <TAB> start <TAB> end`: start and end count characters of
the text. Without arguments each line of stdin is a question and a text with a TAB between them. The
score says how far the answer is ahead of none; where the data the model was trained on had
questions without an answer, a score below 0 means none, written as an empty answer with - for its
place. A text longer than the model takes is read in windows that share a third of their tokens. An
answer has 30 tokens at most. Input and output are UTF-8. Needs onnxruntime, tokenizers and numpy,
nothing else; as a module it offers `Reader`.

Exit codes: 0 done, 2 wrong usage, 4 a file of this folder is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

__all__ = ["Answer", "BundleError", "Reader", "main"]

Row = tuple[str, ...]
"""A question and the text it is about."""

# As in training: tokens of an answer at most, the part of a window that the next one shares, and
# the part of it that a question may take.
_LONGEST, _OVERLAP, _QUESTION = 30, 3, 2


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Answer(NamedTuple):
    """A part of the text, its place in characters, None where there is none, and its score."""

    text: str
    score: float
    start: int | None
    end: int | None


class Reader:
    """Tokenizer and model of one folder. Shape letters: B windows, N tokens."""

    runtime_version = str(onnxruntime.__version__)
    labels: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about["task"])
            self._inputs = tuple(str(name) for name in about["inputs"])
            self._outputs = [str(name) for name in about["output"].split()]
            self._max_tokens = int(about["max_tokens"])
            self._pad_id = int(about["tokenizer"]["pad_id"])
            self._pad_type_id = int(about["tokenizer"]["pad_type_id"])
            self._unanswered = bool(about["unanswered"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        # Windows are cut and padded here.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if self.task != "qa":
            raise BundleError(f"bundle.json: the task is {self.task!r}, expected 'qa'")
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"bundle.json: unknown inputs {', '.join(sorted(unknown))}")
        self._session = _open_model(folder / "model.onnx", provider, threads)

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids of each row's first window, padded, each (B, N)."""
        encodings = [self._tokenizer.encode(question, text) for question, text in rows]
        return self._feed([(e, self._windows(e)[0]) for e in encodings])

    def places(self, row: Row) -> list[int]:  # noqa: ARG002
        """Return the numbers of the two outputs: where an answer begins, where it ends."""
        return [0, 1]

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return how well an answer begins and ends at each token, (B, 2, N).

        Raises BundleError when the model cannot run.
        """
        wanted = {name: feed[name] for name in self._inputs}
        try:
            begin, end = self._session.run(self._outputs, wanted)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        found = np.stack([begin, end], axis=1).astype(np.float32)
        expected = (len(wanted["input_ids"]), 2, wanted["input_ids"].shape[1])
        if found.shape != expected:
            raise BundleError(f"model.onnx: answers {found.shape}, expected {expected}")
        return found

    def answer(self, question: str, text: str) -> Answer:
        """Return the part of a text that answers a question, one window after the other."""
        encoding = self._tokenizer.encode(question, text)
        best, none = Answer("", -np.inf, None, None), np.inf
        for window in self._windows(encoding):
            ends_2N = self.logits(self._feed([(encoding, window)]))[0].astype(np.float64)
            none = min(none, float(ends_2N[:, 0].sum()))
            found = _best(ends_2N, encoding, window)
            if found is not None and found[0] > best.score:
                score, start, end = found
                # Some tokens take the blank before a word with them.
                start += len(text[start:end]) - len(text[start:end].lstrip())
                found_text = text[start:end].rstrip()
                best = Answer(found_text, score, start, start + len(found_text))
        if best.start is None:
            return Answer("", 0.0, None, None)
        score = best.score - none
        lost = self._unanswered and score < 0
        return Answer("", score, None, None) if lost else best._replace(score=score)

    def _windows(self, encoding: Encoding) -> list[list[int]]:
        """Return which tokens of a question with its whole text each window holds.

        A question that would take more than half of a window loses its end.
        """
        sides = encoding.sequence_ids
        special = [i for i, side in enumerate(sides) if side is None]
        question = [i for i, side in enumerate(sides) if side == 0]
        text = [i for i, side in enumerate(sides) if side == 1]
        room = self._max_tokens - len(special)
        question = question[: room // _QUESTION]
        room -= len(question)
        shared = room // _OVERLAP
        starts = range(0, max(1, len(text) - shared), room - shared)
        return [sorted([*special, *question, *text[s : s + room]]) for s in starts]

    def _feed(
        self, windows: Sequence[tuple[Encoding, Sequence[int]]]
    ) -> dict[str, NDArray[np.int64]]:
        longest = max(len(window) for _, window in windows)
        shape = (len(windows), longest)
        feed = {
            "input_ids": np.full(shape, self._pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.full(shape, self._pad_type_id, dtype=np.int64),
        }
        for b, (encoding, window) in enumerate(windows):
            n = len(window)
            feed["input_ids"][b, :n] = [encoding.ids[i] for i in window]
            feed["attention_mask"][b, :n] = 1
            feed["token_type_ids"][b, :n] = [encoding.type_ids[i] for i in window]
        return feed


def _best(
    ends_2N: NDArray[np.float64], encoding: Encoding, window: Sequence[int]
) -> tuple[float, int, int] | None:
    """Return the best span of a window: its sum of begin and end, its characters."""
    places = [place for place, i in enumerate(window) if encoding.sequence_ids[i] == 1]
    if not places:
        return None
    begin, end = ends_2N[:, places]
    width = min(_LONGEST, len(places))
    padded = np.concatenate([end, np.full(width - 1, -np.inf)])
    within = np.lib.stride_tricks.sliding_window_view(padded, width)
    sums = begin + within.max(axis=1)
    first = int(sums.argmax())
    last = first + int(within[first].argmax())
    start = encoding.offsets[window[places[first]]][0]
    return float(sums[first]), start, encoding.offsets[window[places[last]]][1]


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


def _rows(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return questions with their texts: from the arguments, or else from the lines of stdin.

    Raises ValueError for a question without a text.
    """
    if texts:
        if len(texts) % 2:
            raise ValueError(f"expected a question and its text, found {len(texts)} arguments")
        yield from zip(texts[::2], texts[1::2], strict=True)
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        question, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"line {number}: expected a question and a text with a TAB between")
        yield question, text


def _said(question: str, answer: Answer, as_json: bool) -> str:
    if as_json:
        found = {"answer": answer.text, **answer._asdict()}
        del found["text"]
        return json.dumps({"question": question, **found})
    place = ["-" if at is None else str(at) for at in (answer.start, answer.end)]
    # A line feed inside of an answer would end its line.
    text = " ".join(answer.text.split())
    return "\t".join([text, f"{answer.score:.4f}", *place])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Answer questions with the model beside this.")
    parser.add_argument(
        "texts", nargs="*", metavar="QUESTION TEXT", help="default: the lines of stdin"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per question")
    options = parser.parse_args(arguments)
    try:
        reader = Reader(Path(__file__).resolve().parent)
        for question, text in _rows(options.texts):
            line = _said(question, reader.answer(question, text), options.json)
            sys.stdout.buffer.write((line + "\n").encode("utf-8"))
            sys.stdout.buffer.flush()
    except ValueError as error:
        print(f"answer.py: {error}", file=sys.stderr)
        return 2
    except BundleError as error:
        print(f"answer.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
