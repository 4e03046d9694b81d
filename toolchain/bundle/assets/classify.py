"""Classify text with the model beside this file.

    python classify.py "a text" "another text"
    python classify.py < texts.txt
    python classify.py --json "a text"

One answer per text or line, as `label <TAB> probability`, or as one JSON object with --json. Where
several labels may hold, all above one half are given, with commas between them; a model of scores
gives the score. A model of text pairs takes its two texts as two arguments, or as two columns of a
line with a TAB between them. Input and output are UTF-8. Needs onnxruntime, tokenizers and numpy,
nothing else; as a module it offers `Classifier`.

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

__all__ = ["BundleError", "Classifier", "main"]

Row = tuple[str, ...]
"""One text, or the two texts of a pair."""


class BundleError(Exception):
    """A file of this folder cannot be used; the message names it."""


class Classifier:
    """Tokenizer and model of one folder. Shape letters: B rows, N tokens, C labels."""

    runtime_version = str(onnxruntime.__version__)

    def __init__(self, folder: Path) -> None:
        """Open bundle.json, tokenizer.json and model.onnx. Raises BundleError naming the file."""
        about = _read_json(folder / "bundle.json")
        try:
            self.task = str(about.get("task", "classify"))
            self.labels = tuple(str(label) for label in about["labels"])
            self.texts_per_row = 2 if about["kind"] == "pair" else 1
            self._inputs = tuple(str(name) for name in about["inputs"])
            self._output = str(about["output"])
            self._tokenizer = _open_tokenizer(folder / "tokenizer.json", about)
            runtime = about["runtime"]
            provider, threads = str(runtime["provider"]), int(runtime["threads"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"bundle.json: missing or malformed: {error}") from error
        if self.task not in ("classify", "multi_label", "regress"):
            raise BundleError(f"bundle.json: unknown task {self.task!r}")
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"bundle.json: unknown inputs {', '.join(sorted(unknown))}")
        self._session = _open_model(folder / "model.onnx", provider, threads)

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids, each (B, N), cut to the model's length and padded."""
        batch = [row[0] if len(row) == 1 else row for row in rows]
        encodings = self._tokenizer.encode_batch(batch)
        return {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
        }

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the model's raw scores (B, C). Raises BundleError when it cannot run."""
        wanted = {name: feed[name] for name in self._inputs}
        try:
            logits = np.asarray(self._session.run([self._output], wanted)[0], dtype=np.float32)
        except Exception as error:  # onnxruntime's errors share no narrower base.
            raise BundleError(f"model.onnx: cannot run: {_first_line(error)}") from error
        expected = (len(wanted["input_ids"]), len(self.labels))
        if logits.shape != expected:
            raise BundleError(f"model.onnx: answers {logits.shape}, expected {expected}")
        return logits

    def scores(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the score of each row (B,), of a model of scores."""
        return self.logits(self.encode(rows)).astype(np.float64)[:, 0]

    def probabilities(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return the probability of each label (B, C): they add up to one where one label holds.

        Where several labels may hold, each has a probability of its own.
        """
        logits = self.logits(self.encode(rows)).astype(np.float64)
        if self.task == "multi_label":
            return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


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


def _rows(texts: Sequence[str], texts_per_row: int) -> Iterator[Row]:
    """Return the rows asked about: from the arguments, or else from the lines of stdin.

    Raises ValueError for a row with another number of texts than the model takes.
    """
    if texts:
        if len(texts) % texts_per_row:
            raise ValueError(f"the model takes pairs of texts, found {len(texts)} arguments")
        for start in range(0, len(texts), texts_per_row):
            yield tuple(texts[start : start + texts_per_row])
        return
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        row = tuple(line.split("\t")) if texts_per_row == 2 else (line,)
        if len(row) != texts_per_row:
            raise ValueError(f"line {number}: expected two texts with a TAB between them")
        yield row


def _answer(classifier: Classifier, row: Row, as_json: bool) -> str:
    if classifier.task == "regress":
        (score,) = classifier.scores([row]).tolist()
        found: dict[str, object] = {"score": score}
        words = f"{score:.4f}"
    else:
        (probabilities,) = classifier.probabilities([row]).tolist()
        choose = _several if classifier.task == "multi_label" else _best
        found, words = choose(classifier.labels, probabilities)
    if not as_json:
        return words
    texts: dict[str, object] = {"text": row[0]}
    if len(row) == 2:
        texts["text_b"] = row[1]
    return json.dumps({**texts, **found})


def _best(labels: Sequence[str], probabilities: Sequence[float]) -> tuple[dict[str, object], str]:
    best = max(range(len(labels)), key=probabilities.__getitem__)
    found: dict[str, object] = {"label": labels[best], "probability": probabilities[best]}
    found["probabilities"] = {name: probabilities[i] for i, name in enumerate(labels)}
    return found, f"{labels[best]}\t{probabilities[best]:.4f}"


def _several(
    labels: Sequence[str], probabilities: Sequence[float]
) -> tuple[dict[str, object], str]:
    on = [i for i, probability in enumerate(probabilities) if probability > 0.5]
    found: dict[str, object] = {"labels": [labels[i] for i in on]}
    found["probabilities"] = {name: probabilities[i] for i, name in enumerate(labels)}
    names, figures = (labels[i] for i in on), (f"{probabilities[i]:.4f}" for i in on)
    return found, f"{','.join(names)}\t{','.join(figures)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Classify text with the model beside this file.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: the lines of stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer")
    options = parser.parse_args(arguments)
    try:
        classifier = Classifier(Path(__file__).resolve().parent)
        for row in _rows(options.texts, classifier.texts_per_row):
            answer = _answer(classifier, row, options.json)
            sys.stdout.buffer.write((answer + "\n").encode("utf-8"))
            sys.stdout.buffer.flush()
    except ValueError as error:
        print(f"classify.py: {error}", file=sys.stderr)
        return 2
    except BundleError as error:
        print(f"classify.py: {error} (run selftest.py)", file=sys.stderr)
        return 4
    except BrokenPipeError:
        # The reader has had enough (as `| head` does); Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
