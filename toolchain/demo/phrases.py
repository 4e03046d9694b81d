"""The words and templates of phrases.yaml as checked data."""

from functools import cache
from pathlib import Path

from toolchain.config import Config, parse, read_yaml

__all__ = ["Intent", "Phrases", "Pool", "Wrapped", "load"]


class Pool(Config):
    """Phrases of one kind: those of all splits, of train only, and of dev and test only."""

    both: list[str] = []
    seen: list[str] = []
    held: list[str] = []

    def part(self, held: bool) -> list[str]:
        """Return the phrases of one side."""
        return [*self.both, *(self.held if held else self.seen)]


class Wrapped(Config):
    """Phrases for commands (`do`) and for whole sentences (`say`)."""

    do: Pool
    say: Pool


class Intent(Wrapped):
    """One class: its templates, and the intents it is most easily taken for."""

    near: list[str]


class Phrases(Config):
    """Everything that the grammar puts together."""

    slots: dict[str, Pool]
    frames: Wrapped
    contrasts: Wrapped
    intents: dict[str, Intent]


@cache
def load() -> Phrases:
    """Read phrases.yaml once."""
    path = Path(__file__).with_name("phrases.yaml")
    return parse(Phrases, read_yaml(path), where=str(path))
