"""What a bundle holds for each task: its script, how rows are written, what its README says."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.recipe import DataTask

__all__ = ["FORMS", "Form", "OfPrompts", "OfTokens", "Row", "Shipped", "form_of"]

Row = tuple[str, ...]


class Shipped(Protocol):
    """The class that a bundle's script offers. Shape letters: B rows, N tokens, C outcomes.

    One that answers per token has `places` too: the tokens of a row whose answers mean something.
    """

    task: str
    labels: tuple[str, ...]

    def encode(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Return ids, mask and type ids, each (B, N)."""

    def logits(self, feed: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the model's output: (B, C), or (B, N, C) where it answers per token."""


class OfTokens(Shipped, Protocol):
    """A script's class that answers per token; one that goes on with texts has `steps` too."""

    def places(self, row: Row) -> list[int]:
        """Return the tokens of a row whose answers mean something."""


class OfPrompts(OfTokens, Protocol):
    """A script's class that goes on with prompts."""

    def steps(self, text: str, count: int) -> Iterator[tuple[int, float]]:
        """Yield tokens that follow, each with how far it is ahead of the second likeliest."""


@dataclass(frozen=True)
class Form:
    """How models for some tasks are packed.

    `script` is a file of `assets`, which offers `name`; `title` begins the README. `fewest` is the
    least number of labels. `words` says that a row is the words of one text, `per_token` that each
    token has an answer, `gap` that what is asked for is a gap in the text, `prompt` that it is what
    follows the text. `windows` says that a row is a question and a text, which is read in windows,
    and that its two answers are over tokens: where an answer begins, where it ends. `vector` says
    that the answer is a vector, which decides nothing.
    """

    script: str
    name: str
    title: str
    fewest: int
    words: bool = False
    per_token: bool = False
    gap: bool = False
    prompt: bool = False
    vector: bool = False
    windows: bool = False

    def open(self, folder: Path) -> Shipped:
        """Open a bundle with its own script. Raises what `damaged` says."""
        opened: Shipped = getattr(self._module, self.name)(folder)
        return opened

    @property
    def damaged(self) -> type[Exception]:
        """The error that the script raises for a folder it cannot use."""
        error: type[Exception] = self._module.BundleError
        return error

    @property
    def _module(self) -> ModuleType:
        stem = self.script.removesuffix(".py")
        return importlib.import_module(f"toolchain.bundle.assets.{stem}")


FORMS: Mapping[DataTask, Form] = {
    "classify": Form("classify.py", "Classifier", "Text classifier", 2),
    "multi_label": Form("classify.py", "Classifier", "Text classifier", 1),
    "regress": Form("classify.py", "Classifier", "Text scorer", 1),
    "tag": Form("tag.py", "Tagger", "Tagger", 1, words=True, per_token=True),
    "qa": Form("answer.py", "Reader", "Reader", 0, per_token=True, windows=True),
    "embed": Form("embed.py", "Embedder", "Sentence encoder", 0, vector=True),
    "mask_lm": Form("fill_mask.py", "Filler", "Filler of gaps", 0, per_token=True, gap=True),
    "causal_lm": Form("generate.py", "Generator", "Writer", 0, per_token=True, prompt=True),
}


def form_of(task: str) -> Form:
    """Return how models for a task are packed. Raises UsageError where there is no script."""
    for name, form in FORMS.items():
        if name == task:
            return form
    raise UsageError(f"no bundle can be made for {task}, only for {', '.join(FORMS)}")
