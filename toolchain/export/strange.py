"""Texts that tokenizers disagree about, drawn from a seed: what a copy of one is tried on."""

import random
from collections.abc import Sequence

__all__ = ["strange_texts"]

# Where Unicode holds what is treated differently: letters with cases and accents, combining marks,
# blanks and signs, ideographs, syllables, private and unassigned characters, emoji.
_BLOCKS = (
    (0x00, 0x80),
    (0x80, 0x250),
    (0x2B0, 0x370),
    (0x370, 0x600),
    (0x600, 0xE80),
    (0x1E00, 0x2000),
    (0x2000, 0x2070),
    (0x2070, 0x2C00),
    (0x3000, 0x3100),
    (0x4E00, 0xA000),
    (0xAC00, 0xD7A4),
    (0xE000, 0xFFFF),
    (0x10000, 0x20000),
    (0x20000, 0x30000),
    (0xE0000, 0x110000),
)
_LONGEST = 24


def strange_texts(count: int, *, seed: int, pieces: Sequence[str]) -> list[str]:
    """Return `count` texts of random characters of every block, and of `pieces` among them."""
    generator = random.Random(seed)
    return [_text(generator, pieces) for _ in range(count)]


def _text(generator: random.Random, pieces: Sequence[str]) -> str:
    parts = []
    for _ in range(generator.randint(0, _LONGEST)):
        kind = generator.random()
        if kind < 0.3:
            parts.append(generator.choice(pieces))
        elif kind < 0.5:
            parts.append(generator.choice("  \t\nabcXYZ09.,-'"))
        else:
            parts.append(chr(generator.randrange(*generator.choice(_BLOCKS))))
    return "".join(parts)
