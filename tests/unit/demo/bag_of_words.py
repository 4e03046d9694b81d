"""The classifier that the demo task must be too hard for: which words occur, nothing more."""

import re
from collections.abc import Sequence

import numpy as np

from toolchain.demo.grammar import Utterance, labels


def accuracy(train: Sequence[Utterance], held: Sequence[Utterance]) -> float:
    """Fit a logistic regression on word occurrence (Adam, 6 epochs) and return its accuracy."""
    words = {word for row in train for word in _words(row)}
    column = {word: i for i, word in enumerate(sorted(words))}
    inputs, targets = _matrix(train, column)
    weights = _fit(inputs, targets)
    inputs, targets = _matrix(held, column)
    return float(((inputs @ weights).argmax(1) == targets).mean())


def _words(row: Utterance) -> list[str]:
    return re.findall(r"[a-z0-9']+", row.text)


def _matrix(rows: Sequence[Utterance], column: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.zeros((len(rows), len(column) + 1), dtype=np.float32)
    inputs[:, -1] = 1
    for i, row in enumerate(rows):
        for word in _words(row):
            if word in column:
                inputs[i, column[word]] = 1
    ids = {name: i for i, name in enumerate(labels())}
    return inputs, np.array([ids[row.intent] for row in rows])


def _fit(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(0)
    truth = np.eye(len(labels()), dtype=np.float32)[targets]
    weights = np.zeros((inputs.shape[1], truth.shape[1]), dtype=np.float32)
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    step = 0
    for _ in range(6):
        order = random.permutation(len(inputs))
        for start in range(0, len(order), 200):
            rows = order[start : start + 200]
            step += 1
            scores = inputs[rows] @ weights
            odds = np.exp(scores - scores.max(1, keepdims=True))
            error = odds / odds.sum(1, keepdims=True) - truth[rows]
            slope = inputs[rows].T @ error / len(rows) + 1e-4 * weights
            mean = 0.9 * mean + 0.1 * slope
            square = 0.99 * square + 0.01 * slope**2
            rate = np.sqrt(square / (1 - 0.99**step)) + 1e-8
            weights -= 0.05 * (mean / (1 - 0.9**step)) / rate
    return weights
