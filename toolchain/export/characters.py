"""What a tokenizer of BERT's kind does to each character, asked of the tokenizer itself.

BERT's normaliser and its splitting into words look at one character at a time, so a table of all
characters says everything about them, for whatever settings and Unicode version it was built with.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

__all__ = ["Characters", "read_characters", "regex_class"]

_SURROGATES = range(0xD800, 0xE000)
_CHUNK = 8192
# Stands between characters while they are asked about; no other character becomes one.
_BETWEEN = "0"


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Code points by what becomes of them; those named nowhere stay as they are.

    `mapped` ones become other texts; what they became, too, may be one of `isolated`, which are
    words of their own.
    """

    removed: frozenset[int]
    spaces: frozenset[int]
    isolated: frozenset[int]
    mapped: Mapping[int, str]

    def within(self, codes: Collection[int]) -> "Characters":
        """Return what is needed for texts of some code points only."""
        mapped = {code: text for code, text in self.mapped.items() if code in codes}
        reached = frozenset(codes) | {ord(c) for text in mapped.values() for c in text}
        return Characters(
            removed=self.removed & frozenset(codes),
            spaces=self.spaces & reached,
            isolated=self.isolated & reached,
            mapped=mapped,
        )


def read_characters(tokenizer: Tokenizer) -> Characters:
    """Ask a tokenizer with BertNormalizer and BertPreTokenizer about every character."""
    return _read(_Parts(tokenizer, f"{tokenizer.normalizer!r} {tokenizer.pre_tokenizer!r}"))


@dataclass(frozen=True)
class _Parts:
    """A tokenizer that equals those that normalise and split alike."""

    tokenizer: Tokenizer
    settings: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Parts) and other.settings == self.settings

    def __hash__(self) -> int:
        return hash(self.settings)


# Two seconds for a million characters; a run asks several times about the same tokenizer.
@lru_cache(maxsize=4)
def _read(parts: _Parts) -> Characters:
    removed, spaces, isolated = set(), set(), set()
    mapped: dict[int, str] = {}
    every = [chr(code) for code in range(0x110000) if code not in _SURROGATES]
    for start in range(0, len(every), _CHUNK):
        chunk = every[start : start + _CHUNK]
        becomes = _normalised(parts.tokenizer, chunk)
        for character, text in zip(chunk, becomes, strict=True):
            code, core = ord(character), text.strip(" ")
            if not text:
                removed.add(code)
            elif not core:
                spaces.add(code)
            elif core != character:
                mapped[code] = core
            if core != text:
                # The normaliser has put blanks around an ideograph.
                isolated |= {ord(c) for c in core}
        kept = sorted({c for text in becomes for c in text if c not in (" ", _BETWEEN)})
        split, blank = _alone(parts.tokenizer, kept)
        isolated |= split
        spaces |= blank
    return Characters(
        removed=frozenset(removed),
        spaces=frozenset(spaces),
        isolated=frozenset(isolated),
        mapped=mapped,
    )


def _normalised(tokenizer: Tokenizer, characters: Sequence[str]) -> list[str]:
    asked = [c for c in characters if c != _BETWEEN]
    answers = tokenizer.normalizer.normalize_str(_BETWEEN.join(asked)).split(_BETWEEN)
    found = dict(zip(asked, answers, strict=True))
    return [found.get(c, c) for c in characters]


def _alone(tokenizer: Tokenizer, characters: Sequence[str]) -> tuple[set[int], set[int]]:
    """Return the characters that are words of their own, and those that only end words."""
    text = "".join(_BETWEEN + c for c in characters) + _BETWEEN
    starts = {start for _, (start, _) in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    isolated, spaces = set(), set()
    for number, character in enumerate(characters):
        place = 2 * number + 1
        if place in starts:
            isolated.add(ord(character))
        elif place + 1 in starts:
            spaces.add(ord(character))
    return isolated, spaces


def regex_class(codes: Iterable[int]) -> str:
    """Return the RE2 class of some code points."""
    runs: list[list[int]] = []
    for code in sorted(codes):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "[" + "".join(_run(first, last) for first, last in runs) + "]"


def _run(first: int, last: int) -> str:
    return f"\\x{{{first:x}}}" + (f"-\\x{{{last:x}}}" if last > first else "")
