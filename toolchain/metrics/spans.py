"""Entities in a sequence of BIO tags, by the definition of CoNLL-2003 that seqeval uses.

An entity is its type and both its ends; it counts as found only when all three are equal. As there,
and in seqeval's default mode, an `I-x` that follows no `B-x` or `I-x` opens an entity instead of
being an error.
"""

from collections.abc import Iterable, Sequence

__all__ = ["Entity", "entities", "not_bio"]

Entity = tuple[str, int, int]
"""Type, first word, last word."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of one sequence of tags."""
    found: set[Entity] = set()
    kind, start = "", 0
    for i, tag in enumerate((*tags, "O")):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((kind, start, i - 1))
            kind = ""
        if prefix != "O" and not kind:
            kind, start = name, i
    return found


def not_bio(names: Iterable[str]) -> str | None:
    """Return the first name that is no BIO tag (O, B-x, I-x), or None."""
    for name in names:
        prefix, dash, kind = name.partition("-")
        if name != "O" and not (prefix in ("B", "I") and dash and kind):
            return name
    return None
