"""What a cache keeps of a teacher: which tensors, how exactly, in how many bytes.

A cache keeps what terms read, so it follows from bound terms. Attention scores are kept as queries
and keys or as they are, whichever is smaller on the rows at hand. Logits of a language model are
its k largest outcomes and the mass of the rest, or k outcomes drawn from it; everything else is
kept whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolchain.distill.extract import Extract, Request
from toolchain.distill.records import Parts
from toolchain.distill.term import BoundTerm
from toolchain.spec import LANGUAGE, SEQUENCE, ModelSpec

__all__ = ["TOP_K", "Keep", "Lengths", "Precision", "Wanted", "keeps_of", "wanted_of"]

TOP_K = 64
"""Outcomes of a language model that are kept where nothing else is asked for."""

Precision = Literal["bf16", "fp32", "int8"]
Unit = Literal["row", "answer", "token", "pair"]
Kind = Literal[
    "logits",
    "largest",
    "sampled",
    "states",
    "pooled",
    "emb",
    "hidden",
    "q",
    "k",
    "v",
    "q_normed",
    "k_normed",
    "scores",
]

_BYTES = {"bf16": 2, "fp32": 4, "int8": 1}
_UNITS: Mapping[str, Unit] = {"logits": "answer", "states": "answer", "pooled": "row"}
_SCALE = 4
# Ids below it fit into two bytes.
_NARROW = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Keep:
    """One tensor of a cache: what it is, per what, how wide and how exact.

    `largest` holds k log-probabilities (fp16), their ids, and the log-mass of the rest at each of
    `taus`; its `width` is k, its `outcomes` are all there are. `sampled` holds k ids drawn at each
    of `taus`, and the entropy there. `q_normed` and `k_normed` are what
    a norm over each head makes of queries and keys before scores read them.
    """

    kind: Kind
    layer: int = 0
    unit: Unit
    width: int
    precision: Precision
    outcomes: int = 0
    taus: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Its name in shards and in messages."""
        return f"{self.kind}.{self.layer}" if self.layer else self.kind

    @property
    def bytes(self) -> int:
        """Bytes of one unit: a row, an answer, a token, or a pair of tokens."""
        id_bytes = 2 if self.narrow_ids else 4
        if self.kind == "largest":
            return self.width * (2 + id_bytes) + 4 * len(self.taus)
        if self.kind == "sampled":
            return (self.width * id_bytes + 4) * len(self.taus)
        scale = _SCALE if self.precision == "int8" else 0
        return self.width * _BYTES[self.precision] + scale

    @property
    def narrow_ids(self) -> bool:
        """Whether ids of outcomes fit into two bytes."""
        return self.outcomes <= _NARROW

    def as_json(self) -> dict[str, Any]:
        """Return it as manifests hold it."""
        more = {"outcomes": self.outcomes, "taus": list(self.taus)} if self.taus else {}
        return {
            "kind": self.kind,
            "layer": self.layer,
            "unit": self.unit,
            "width": self.width,
            "precision": self.precision,
            **more,
        }

    @staticmethod
    def of_json(value: Mapping[str, Any]) -> "Keep":
        """Read what `as_json` wrote."""
        return Keep(**{**value, "taus": tuple(value.get("taus", ()))})


@dataclass(frozen=True)
class Wanted:
    """What terms read of one teacher.

    `scored` are the layers whose attention scores they compare, `taus` the temperatures at which
    they compare logits.
    """

    requests: frozenset[Request]
    scored: frozenset[int] = frozenset()
    taus: frozenset[float] = frozenset()

    def __or__(self, other: "Wanted") -> "Wanted":
        """Return what both want."""
        return Wanted(
            self.requests | other.requests, self.scored | other.scored, self.taus | other.taus
        )

    def lacking(self, keeps: Iterable[Keep]) -> list[str]:
        """Return the names of what is wanted and not kept, in order."""
        kept = {(keep.kind, keep.layer) for keep in keeps}
        missing = []
        for request in sorted(self.requests, key=lambda r: (r.kind, r.layer)):
            names: set[tuple[str, int]] = {(request.kind, request.layer)}
            if request.kind == "logits":
                names |= {("largest", 0), ("sampled", 0)}
            if not names & kept:
                missing.append(f"{request.kind} {request.layer or ''}".strip())
        for layer in sorted(self.scored):
            pairs = [{("q", layer), ("k", layer)}, {("q_normed", layer), ("k_normed", layer)}]
            if ("scores", layer) not in kept and not any(pair <= kept for pair in pairs):
                missing.append(f"attention scores {layer}")
        return missing


@dataclass(frozen=True)
class Lengths:
    """How much there is of everything in some rows: `pairs` is the sum of squared lengths."""

    rows: int
    tokens: int
    pairs: int
    answers: int

    def __add__(self, other: "Lengths") -> "Lengths":
        """Return what both have together."""
        return Lengths(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.answers + other.answers,
        )

    def count(self, unit: Unit) -> int:
        """Return how many units there are."""
        return {
            "row": self.rows,
            "token": self.tokens,
            "pair": self.pairs,
            "answer": self.answers,
        }[unit]

    def bytes(self, keeps: Iterable[Keep]) -> int:
        """Return the bytes that these tensors take."""
        return sum(keep.bytes * self.count(keep.unit) for keep in keeps)


def wanted_of(
    terms: Sequence[BoundTerm], parts: Parts, teacher: int, task: str, *, reads: bool
) -> Wanted:
    """Return what the terms of a stage, and what weighs its teachers, read of one of them."""
    requests: set[Request] = set()
    scored: set[int] = set()
    taus: set[float] = set()
    for bound in terms:
        term = bound.term
        if bound.teacher != teacher or term.extract.is_gold:
            continue
        layers = bound.layer_map.teacher
        read: list[tuple[Extract, int]] = [(term.extract, n) for n in layers]
        if term.guide is not None:
            read += [(term.guide, max(1, n)) for n in layers]
        for extract, layer in read:
            if extract.kind in ("attn_scores", "attn_probs"):
                scored.add(layer)
            else:
                requests |= set(extract.requests(layer))
        if Request("logits") in bound.requests("teacher"):
            taus.add(float(getattr(bound.objective, "tau", 1.0)))
    if reads and (parts.aggregation or task not in LANGUAGE):
        # Few numbers per row, and what weighs teachers reads them.
        requests.add(Request("logits"))
    return Wanted(frozenset(requests), frozenset(scored), frozenset(taus))


def keeps_of(
    wanted: Wanted,
    spec: ModelSpec,
    lengths: Lengths,
    *,
    precision: Precision,
    top_k: int,
    sampled: bool = False,
) -> tuple[Keep, ...]:
    """Return how what is wanted is kept in the fewest bytes; of many outcomes `top_k` are."""
    keeps: dict[tuple[str, int], Keep] = {}
    for request in wanted.requests:
        keep = _keep(request, spec, precision, top_k, wanted.taus)
        if sampled and keep.kind == "largest":
            keep = replace(keep, kind="sampled", taus=tuple(sorted(wanted.taus or {1.0})))
        keeps[request.kind, request.layer] = keep
    for layer in wanted.scored:
        scores = Keep(
            kind="scores",
            layer=layer,
            unit="pair",
            width=spec.heads,
            precision="fp32" if precision == "fp32" else "bf16",
        )
        apart = [k for k in _scored(layer, spec, precision) if (k.kind, layer) not in keeps]
        smaller = [scores] if lengths.bytes([scores]) < lengths.bytes(apart) else apart
        keeps |= {(keep.kind, layer): keep for keep in smaller}
    return tuple(sorted(keeps.values(), key=lambda keep: (keep.kind, keep.layer)))


def _scored(layer: int, spec: ModelSpec, precision: Precision) -> list[Keep]:
    """Return the queries and keys that scores are recomputed from."""
    names: tuple[Kind, Kind] = ("q_normed", "k_normed") if spec.parts.head_norms else ("q", "k")
    return [
        Keep(kind=kind, layer=layer, unit="token", width=width, precision=precision)
        for kind, width in zip(names, (spec.query_width, spec.key_width), strict=True)
    ]


def _keep(
    request: Request, spec: ModelSpec, precision: Precision, top_k: int, taus: frozenset[float]
) -> Keep:
    kind, layer = request.kind, request.layer
    assert kind != "head", "a teacher has no extra heads"
    if kind == "logits":
        if spec.task in LANGUAGE and spec.vocab > top_k:
            return Keep(
                kind="largest",
                unit="answer",
                width=top_k,
                precision="fp32",
                outcomes=spec.vocab,
                taus=tuple(sorted(taus | {1.0})),
            )
        return Keep(kind="logits", unit="answer", width=_outcomes(spec), precision="fp32")
    width = {"q": spec.query_width, "k": spec.key_width, "v": spec.key_width}.get(kind, spec.width)
    unit = _UNITS.get(kind, "token")
    return Keep(kind=kind, layer=layer, unit=unit, width=width, precision=precision)


def _outcomes(spec: ModelSpec) -> int:
    if spec.task in LANGUAGE:
        return spec.vocab
    if spec.task in SEQUENCE and spec.task != "classify":
        return 2 if spec.task == "multi_label" else 1
    # An embedding is its outcomes.
    return spec.width if spec.task == "embed" else spec.num_labels
