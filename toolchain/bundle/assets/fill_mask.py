"""Fill the gaps of a text with the model beside this file.

    python fill_mask.py "a text with a [MASK] in it" "another [MASK]"
    python fill_mask.py < texts.txt
    python fill_mask.py --top 3 --json "a [MASK]"

One line per gap, the likeliest fillings with their probabilities, `token <TAB> probability`, one
after the other; a text without a gap has none, and a text's lines end in an empty line. With --json
one object per text. How a gap is written says bundle.json (tokenizer.mask_token).

Input and output are UTF-8. Needs onnxruntime, tokenizers and numpy, nothing else; as a module it
offers `Filler`.

Exit codes: 0 done, 4 a file of this folder is damaged.
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
from tokenizers import Tokenizer

__all__ = ["BundleError", "Filler", "Filling", "main"]

Row = tuple[str, ...]
"""One text."""


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Filling(NamedTuple):
    """A token that may stand in a gap."""

    token: str
    id: int
    probability: float


class Filler:
    """Tokenizer and model of one folder. Shape letters: B rows, N tokens, V vocabulary."""

    runtime_version = str(onnxruntime.__version__)
    labels: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about["task"])
            self._inputs = tuple(str(name) for name in about["inputs"])
            self._output = str(about["output"])
            self._mask_id = int(about["tokenizer"]["mask_id"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        if self.task != "mask_lm":
            raise BundleError(f"bundle.json: the task is {self.task!r}, expected 'mask_lm'")
        self._session = _open_model(folder / "model.onnx", provider, threads)

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids, each (B, N), cut to the model's length and padded."""
        encodings = self._tokenizer.encode_batch([row[0] for row in rows])
        return {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
        }

    def places(self, row: Row) -> list[int]:
        """Return the gaps of a text, or every token where it has none."""
        ids: list[int] = self.encode([row])["input_ids"][0].tolist()
        gaps = [place for place, token in enumerate(ids) if token == self._mask_id]
        return gaps or list(range(len(ids)))

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the model's raw scores (B, N, V). Raises BundleError when it cannot run."""
        wanted = {name: feed[name] for name in self._inputs}
        try:
            logits = np.asarray(self._session.run([self._output], wanted)[0], dtype=np.float32)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        expected = wanted["input_ids"].shape
        if logits.ndim != 3 or logits.shape[:2] != expected:
            raise BundleError(f"model.onnx: answers {logits.shape}, expected ({expected}, tokens)")
        return logits

    def fill(self, text: str, top: int = 5) -> list[list[Filling]]:
        """Return, for each gap of a text, the likeliest fillings, the best one first."""
        feed = self.encode([(text,)])
        gaps = np.flatnonzero(feed["input_ids"][0] == self._mask_id)
        if not len(gaps):
            return []
        scores_NV = self.logits(feed)[0].astype(np.float64)
        return [self._best(scores_NV[gap], top) for gap in gaps]

    def _best(self, scores_V: NDArray[np.float64], top: int) -> list[Filling]:
        powers = np.exp(scores_V - scores_V.max())
        probabilities = powers / powers.sum()
        order = np.argsort(-probabilities, kind="stable")[:top].tolist()
        return [Filling(self._text(i), i, float(probabilities[i])) for i in order]

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False)).strip()


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


def _answer(filler: Filler, text: str, *, top: int, as_json: bool) -> str:
    gaps = filler.fill(text, top)
    if as_json:
        return (
            json.dumps({"text": text, "gaps": [[f._asdict() for f in gap] for gap in gaps]}) + "\n"
        )
    lines = ["\t".join(f"{f.token}\t{f.probability:.4f}" for f in gap) for gap in gaps]
    return "".join(f"{line}\n" for line in [*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fill gaps with the model beside this file.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: the lines of stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per text")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="fillings per gap")
    options = parser.parse_args(arguments)
    try:
        filler = Filler(Path(__file__).resolve().parent)
        for text in _texts(options.texts):
            answer = _answer(filler, text, top=options.top, as_json=options.json)
            sys.stdout.buffer.write(answer.encode("utf-8"))
            sys.stdout.buffer.flush()
    except BundleError as error:
        print(f"fill_mask.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
