"""Turn texts into vectors with the model beside this file.

    python embed.py "a text" "another text"
    python embed.py < texts.txt
    python embed.py --json "a text"
    python embed.py --compare "a text" "another text"

One vector per text or line, as numbers with blanks between them, or as one JSON object with --json.
With --compare the answer is how alike two texts are, the cosine of their vectors: of two arguments
each, or of the two columns of a line with a TAB between them. Input and output are UTF-8. Needs
onnxruntime, tokenizers and numpy, nothing else; as a module it offers `Embedder`.

Exit codes: 0 done, 2 wrong usage, 4 a file of this folder is damaged.
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

__all__ = ["BundleError", "Embedder", "main"]


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Embedder:
    """Tokenizer and model of one folder. Shape letters: B texts, N tokens, D width."""

    runtime_version = str(onnxruntime.__version__)
    labels: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about["task"])
            self.width = int(about["model"]["width"])
            self._inputs = tuple(str(name) for name in about["inputs"])
            self._output = str(about["output"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        if self.task != "embed":
            raise BundleError(f"bundle.json: unknown task {self.task!r}")
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"bundle.json: unknown inputs {', '.join(sorted(unknown))}")
        self._session = _open_model(folder / "model.onnx", provider, threads)

    def encode(self, rows: Sequence[tuple[str, ...]]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids, each (B, N), cut to the model's length and padded."""
        encodings = self._tokenizer.encode_batch([text for (text,) in rows])
        return {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
        }

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the model's output (B, D). Raises BundleError when it cannot run."""
        wanted = {name: feed[name] for name in self._inputs}
        try:
            vectors = np.asarray(self._session.run([self._output], wanted)[0], dtype=np.float32)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        expected = (len(wanted["input_ids"]), self.width)
        if vectors.shape != expected:
            raise BundleError(f"model.onnx: answers {vectors.shape}, expected {expected}")
        return vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vector of each text (B, D), one text at a time."""
        found = [self.logits(self.encode([(text,)])) for text in texts]
        return np.concatenate([*found, np.zeros((0, self.width), dtype=np.float32)])

    def similarity(self, text: str, other: str) -> float:
        """Return the cosine of the vectors of two texts, from -1 to 1."""
        a_D, b_D = self.embed([text, other]).astype(np.float64)
        lengths = float(np.linalg.norm(a_D) * np.linalg.norm(b_D))
        return float(a_D @ b_D) / lengths if lengths else 0.0


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


def _rows(texts: Sequence[str], texts_per_row: int) -> Iterator[tuple[str, ...]]:
    """Return the rows asked about: from the arguments, or else from the lines of stdin.

    Raises ValueError for a row with another number of texts than are compared.
    """
    if texts:
        if len(texts) % texts_per_row:
            raise ValueError(f"two texts are compared, found {len(texts)} arguments")
        for start in range(0, len(texts), texts_per_row):
            yield tuple(texts[start : start + texts_per_row])
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        row = tuple(line.split("\t")) if texts_per_row == 2 else (line,)
        if len(row) != texts_per_row:
            raise ValueError(f"line {number}: expected two texts with a TAB between them")
        yield row


def _answer(embedder: Embedder, row: tuple[str, ...], as_json: bool) -> str:
    if len(row) == 2:
        cosine = embedder.similarity(*row)
        found = {"text": row[0], "text_b": row[1], "similarity": cosine}
        return json.dumps(found) if as_json else f"{cosine:.4f}"
    (vector,) = embedder.embed(row).tolist()
    if as_json:
        return json.dumps({"text": row[0], "embedding": vector})
    return " ".join(f"{figure:.6g}" for figure in vector)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Turn texts into vectors with the model here.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: the lines of stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer")
    parser.add_argument("--compare", action="store_true", help="say how alike two texts are")
    options = parser.parse_args(arguments)
    try:
        embedder = Embedder(Path(__file__).resolve().parent)
        for row in _rows(options.texts, 2 if options.compare else 1):
            answer = _answer(embedder, row, options.json)
            sys.stdout.buffer.write((answer + "\n").encode("utf-8"))
            sys.stdout.buffer.flush()
    except ValueError as error:
        print(f"embed.py: {error}", file=sys.stderr)
        return 2
    except BundleError as error:
        print(f"embed.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
