"""A smart-home command task from a grammar: it needs an encoder, and it can be shipped as rules.

Dev and test are phrased with templates and words that train never shows, and a part of the
commands names a second action that is not wanted ("do not open the blinds, light up the office").
Beside them lie logs: what people said, phrased as dev and test are, and nobody labelled. The same
seed gives the same texts everywhere.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from toolchain.artifact import write_atomic
from toolchain.demo.phrases import Wrapped, load
from toolchain.errors import UsageError

__all__ = ["Corpus", "Utterance", "generate", "labels", "write"]

# Probabilities; tuned so that knowing words is not enough and knowing English is.
_SAY = 0.3
_CONTRAST = 0.2
_NEAR = 0.5
_TYPO = 0.08
# Draws without a new text after which the grammar counts as exhausted.
_TRIES = 1000

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Utterance:
    """One text with its intent and the template of its wish."""

    text: str
    intent: str
    template: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The three splits, and logs without labels; no text occurs twice."""

    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    logs: tuple[str, ...]


def labels() -> tuple[str, ...]:
    """Return the intents in order of their class ids."""
    return tuple(load().intents)


def generate(
    *, seed: int = 0, train: int = 6000, dev: int = 1000, test: int = 1000, logs: int = 6000
) -> Corpus:
    """Return a corpus with that many utterances per split, the intents in equal parts.

    Raises UsageError for more utterances than the grammar can tell apart.
    """
    taken: set[str] = set()
    splits = {
        name: _split(Random(f"{seed}/{name}"), count, name != "train", taken)
        for name, count in (("train", train), ("dev", dev), ("test", test), ("logs", logs))
    }
    said = tuple(row.text for row in splits.pop("logs"))
    return Corpus(**splits, logs=said)


def write(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 6000,
    dev: int = 1000,
    test: int = 1000,
    logs: int = 6000,
) -> None:
    """Write train.tsv, dev.tsv, test.tsv (text, label), labels.txt and logs.txt into `folder`."""
    corpus = generate(seed=seed, train=train, dev=dev, test=test, logs=logs)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", corpus.train), ("dev", corpus.dev), ("test", corpus.test)):
        lines = ["text\tlabel", *(f"{row.text}\t{row.intent}" for row in rows)]
        write_atomic(folder / f"{name}.tsv", "\n".join(lines) + "\n")
    write_atomic(folder / "labels.txt", "\n".join(labels()) + "\n")
    write_atomic(folder / "logs.txt", "\n".join(corpus.logs) + "\n")


def _split(random: Random, count: int, held: bool, taken: set[str]) -> tuple[Utterance, ...]:
    intents = labels()
    rows = [_new(random, intents[i % len(intents)], held, taken) for i in range(count)]
    random.shuffle(rows)
    return tuple(rows)


def _new(random: Random, intent: str, held: bool, taken: set[str]) -> Utterance:
    for _ in range(_TRIES):
        utterance = _utter(random, intent, held)
        if utterance.text not in taken:
            taken.add(utterance.text)
            return utterance
    raise UsageError(
        f"the grammar has hardly more than {len(taken)} different utterances", "ask for fewer"
    )


def _utter(random: Random, intent: str, held: bool) -> Utterance:
    phrases = load()
    say = random.random() < _SAY

    def pool(both: Wrapped) -> list[str]:
        return (both.say if say else both.do).part(held)

    template = random.choice(pool(phrases.intents[intent]))
    wish = _fill(random, template, held)
    if random.random() < _CONTRAST:
        other = phrases.intents[_other(random, intent)]
        frames = phrases.contrasts.say.part(held)
        if not say:
            frames += phrases.contrasts.do.part(held)
        unwanted = _fill(random, random.choice(other.do.part(held)), held)
        text = _fill(random, random.choice(frames), held, x=wish, y=unwanted)
    else:
        text = _fill(random, random.choice(pool(phrases.frames)), held, x=wish)
    if random.random() < _TYPO:
        text = _mistype(random, text)
    return Utterance(text, intent, template)


def _other(random: Random, intent: str) -> str:
    """Return another intent, often one of those it is easily taken for."""
    if random.random() < _NEAR:
        return random.choice(load().intents[intent].near)
    return random.choice([name for name in labels() if name != intent])


def _fill(random: Random, template: str, held: bool, *, x: str = "", y: str = "") -> str:
    """Return a template with its choices and slots filled in; `x` and `y` are slots given."""
    slots = load().slots
    given = {"x": x, "y": y}

    def word(found: re.Match[str]) -> str:
        name = found[1]
        return given[name] if name in given else random.choice(slots[name].part(held))

    chosen = _CHOICE.sub(lambda found: random.choice(found[1].split("|")), template)
    return _SLOT.sub(word, chosen)


def _mistype(random: Random, text: str) -> str:
    """Return the text with one slip in one of its longer words: a swap, a drop or a repeat."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    index = random.choice(long)
    word = words[index]
    at = random.randrange(1, len(word) - 1)
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    words[index] = random.choice(slips)
    return " ".join(words)
