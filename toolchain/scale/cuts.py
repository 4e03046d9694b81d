"""Cuts: which matrices of a model are divided over processes under tensor parallelism.

Projections and the first layer of a feed-forward are cut by columns, what follows them by rows, so
that every rank has whole heads and one sum over ranks ends each half of a block. transformers has
such a plan for most decoders, which also cuts the table of tokens and the language head by tokens;
for encoders and GPT-2 it follows from where a family's matrices are. What is added to every sum
(its bias) and norms stay whole. Imports no torch: plans ask.
"""

from typing import Literal

from toolchain.models.family import families
from toolchain.spec import ModelSpec

__all__ = ["cut_params", "cutting_plan", "why_not_cut"]

# Where a family does not say it, because its parts cannot be cut out for good.
_BEHIND = {
    "mpnet": ("attention.attn.o", ("intermediate.dense", "output.dense")),
    "gpt2": ("attn.c_proj", ("mlp.c_fc", "mlp.c_proj")),
    "deberta_v2": ("attention.output.dense", ("intermediate.dense", "output.dense")),
}
# DeBERTa's projections of positions, where they are not those of tokens.
_POSITIONS = ("attention.self.pos_key_proj", "attention.self.pos_query_proj")

TRANSPOSED = ("transposed_heads", "transposed_columns", "transposed_rows")
"""Ways of cutting matrices stored (in, out): queries, keys and values side by side; columns; rows.
They are our own, see `transposed.py`."""


def cutting_plan(spec: ModelSpec) -> dict[str, str] | Literal["auto"]:
    """Return which modules are cut how, by their paths; "auto" is transformers' own plan."""
    family = families.get(spec.family)
    out, ffn = _BEHIND.get(family.name, (family.out, family.ffn))
    if out is None or ffn is None:
        return "auto"
    block = f"{family.backbone}.{family.blocks}.*."
    if family.fused:
        heads, columns, rows = TRANSPOSED
        places = {family.query: heads, ffn[0]: columns, out: rows, ffn[1]: rows}
        return {block + path: style for path, style in places.items()}
    by_columns = [family.query, family.key, family.value, ffn[0]]
    if spec.parts.relative_projections:
        by_columns += _POSITIONS
    return {block + path: "colwise" for path in by_columns} | {
        block + path: "rowwise" for path in (out, ffn[1])
    }


def why_not_cut(spec: ModelSpec, ranks: int) -> str | None:
    """Return why a model's matrices cannot be divided over so many processes, or None."""
    family = families.get(spec.family)
    if cutting_plan(spec) == "auto" and not family.rotary:
        return f"there is no plan for {family.name}"
    if spec.parts.relative_projections not in (0, len(_POSITIONS)):
        return "only some of its positions have projections of their own"
    for what, count in (("heads", spec.heads), ("heads of keys and values", spec.kv_heads)):
        if count % ranks:
            return f"it has {count} {what}, and there are {ranks} processes"
    return None


def cut_params(spec: ModelSpec) -> int:
    """Return how many of a model's parameters are divided; every rank has the others whole."""
    d, parts = spec.width, spec.parts
    norm = d if not parts.norm_bias else 2 * d
    whole = 2 * norm + (2 * spec.head_width if parts.head_norms else 0)
    whole += (d if parts.out_bias else 0) + (d if parts.ffn_bias else 0)
    cut = spec.layers * (spec.block_params() - whole)
    if cutting_plan(spec) == "auto":
        cut += spec.vocab * spec.embedding_width
        cut += spec.head_params() if spec.task == "causal_lm" else 0
    return cut
