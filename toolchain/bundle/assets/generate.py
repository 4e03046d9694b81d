"""Go on with a text, with the model beside this file.

    python generate.py "Once upon a time"
    python generate.py < prompts.txt
    python generate.py --tokens 50 --json "Once upon a time"

The prompt and what follows it, token by token as they come, then an empty line; with --json one
object per prompt when it is done. The likeliest token is taken each time, so equal prompts have
equal answers; it ends with the model's end token, after --tokens tokens, or where the model's
length ends. Of a prompt longer than that the end is read.

Input and output are UTF-8. Needs onnxruntime, tokenizers and numpy, nothing else; as a module it
offers `Generator`.

Exit codes: 0 done, 4 a file of this folder is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

__all__ = ["BundleError", "Generator", "main"]

Row = tuple[str, ...]
"""One prompt."""


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Generator:
    """Tokenizer and model of one folder. Shape letters: B rows, N tokens, V vocabulary.

    The model takes what it remembers of earlier tokens (past_key_values.*) and gives it with the
    new ones added (present.*), so each new token costs one step, however long the text is.
    """

    runtime_version = str(onnxruntime.__version__)
    labels: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about["task"])
            self.max_tokens = int(about["max_tokens"])
            self._output = str(about["output"])
            settings = about["tokenizer"]
            self._begin, self._end = settings["begin_id"], settings["end_id"]
            self._pad_id = int(settings["pad_id"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        if self.task != "causal_lm":
            raise BundleError(f"bundle.json: the task is {self.task!r}, expected 'causal_lm'")
        # Prompts are cut here, at their beginning, and padded by hand.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._session = _open_model(folder / "model.onnx", provider, threads)
        self._past = {
            node.name: (int(node.shape[1]), int(node.shape[3]))
            for node in self._session.get_inputs()
            if node.name.startswith("past_key_values.")
        }
        self._present = [name.replace("past_key_values", "present") for name in self._past]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a prompt, its begin token included, cut to the model's length."""
        begin = [] if self._begin is None else [int(self._begin)]
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        kept = [*begin, *ids[max(0, len(ids) - self.max_tokens + len(begin)) :]]
        # Where texts have no begin token, they are behind the end token of the one before.
        return kept or ([] if self._end is None else [int(self._end)])

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids (all 0), each (B, N), padded."""
        ids = [self.tokens(row[0]) for row in rows]
        longest = max(map(len, ids))
        padded = [[*row, *[self._pad_id] * (longest - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        return {
            "input_ids": np.array(padded, dtype=np.int64),
            "attention_mask": np.array(mask, dtype=np.int64),
            "token_type_ids": np.zeros((len(rows), longest), dtype=np.int64),
        }

    def places(self, row: Row) -> list[int]:
        """Return every token of a prompt: each has an opinion about the next one."""
        return list(range(len(self.tokens(row[0]))))

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the scores (B, N, V) of what may follow each token. Raises BundleError."""
        mask_BN = feed["attention_mask"]
        positions = (mask_BN.cumsum(axis=1) - 1).clip(min=0)
        logits, _ = self._step(feed["input_ids"], mask_BN, positions, self._nothing(len(mask_BN)))
        return logits

    def generate(self, text: str, count: int) -> Iterator[int]:
        """Yield up to `count` tokens that follow a prompt, the likeliest one each time."""
        for token, _ in self.steps(text, count):
            yield token

    def steps(self, text: str, count: int) -> Iterator[tuple[int, float]]:
        """Yield as `generate` does, with how far each token is ahead of the second likeliest."""
        ids = self.tokens(text)
        past, start = self._nothing(1), 0
        stops = (self._begin, self._end)
        for _ in range(min(count, self.max_tokens - len(ids))):
            new = np.array([ids[start:]], dtype=np.int64)
            positions = np.arange(start, len(ids), dtype=np.int64)[None]
            mask = np.ones((1, len(ids)), dtype=np.int64)
            logits, past = self._step(new, mask, positions, past)
            second, first = np.partition(logits[0, -1], -2)[-2:]
            token, start = int(logits[0, -1].argmax()), len(ids)
            if token in stops:
                return
            ids.append(token)
            yield token, float(first - second)

    def text(self, prompt: str, tokens: Sequence[int]) -> str:
        """Return what some tokens behind a prompt read, blanks between them included."""
        ids = self.tokens(prompt)
        before = self._tokenizer.decode(ids)
        return str(self._tokenizer.decode([*ids, *tokens]))[len(before) :]

    def _nothing(self, rows: int) -> dict[str, NDArray[np.float32]]:
        return {
            name: np.zeros((rows, heads, 0, width), dtype=np.float32)
            for name, (heads, width) in self._past.items()
        }

    def _step(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64],
        positions: NDArray[np.int64],
        past: Mapping[str, NDArray[np.float32]],
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        try:
            logits, *present = self._session.run([self._output, *self._present], feed)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        if logits.ndim != 3 or logits.shape[:2] != ids.shape:
            raise BundleError(f"model.onnx: answers {logits.shape}, expected ({ids.shape}, tokens)")
        return np.asarray(logits, dtype=np.float32), {
            name: present[number] for number, name in enumerate(self._past)
        }


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


def _answer(generator: Generator, prompt: str, count: int, *, as_json: bool) -> Iterator[str]:
    """Yield the answer piece by piece."""
    tokens: list[int] = []
    if not as_json:
        yield prompt
    said = ""
    for token in generator.generate(prompt, count):
        tokens.append(token)
        text = generator.text(prompt, tokens)
        # A character of several tokens is not whole before its last one.
        if not as_json and not text.endswith("\ufffd"):
            yield text[len(said) :]
            said = text
    text = generator.text(prompt, tokens)
    if as_json:
        yield json.dumps({"prompt": prompt, "text": text, "tokens": tokens}) + "\n"
    else:
        yield text[len(said) :] + "\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Go on with a text.")
    parser.add_argument("texts", nargs="*", metavar="PROMPT", help="default: the lines of stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt")
    parser.add_argument("--tokens", type=int, default=100, metavar="N", help="new ones at most")
    options = parser.parse_args(arguments)
    try:
        generator = Generator(Path(__file__).resolve().parent)
        for prompt in _texts(options.texts):
            for piece in _answer(generator, prompt, options.tokens, as_json=options.json):
                sys.stdout.buffer.write(piece.encode("utf-8"))
                sys.stdout.buffer.flush()
    except BundleError as error:
        print(f"generate.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
