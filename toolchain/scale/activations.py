"""Bytes a forward pass leaves behind: what autograd keeps of a block, operation by operation.

Per token, with d the width, q that of all heads together, f the feed-forward's, H the heads, N the
tokens and e the bytes of a number in the matrices' precision (4, or 2 in bf16):

    norms        2 x 4 d (layer norm keeps its input) or 2 x 8 d (a root mean square norm in torch
                 operations keeps its input and the normalised input); both in fp32
    matrices     e d for each input of a linear layer that is not kept already: with fp32 the norms'
                 outputs, with autocast one bf16 copy for every linear layer that reads one
    dropout      2 x the mask: a number of e bytes on a CPU, a byte on a GPU
    attention    4 e q + 4 H + e N in one fused kernel (queries, output, keys and values repeated
                 for every query head, the logarithm of each row's sum, the mask); a CPU has none
                 that drops attention: there copies in fp32 and three maps, 12 q + e q + 12 H N
    feed-forward e f times the tensors its activation keeps (2 for GELU with the input of the next
                 layer, 4 for a gated SiLU, 5 for GELU written as a polynomial)

No activation is computed again. A test counts what autograd really saves and compares.
"""

from dataclasses import dataclass

from toolchain.models.family import families
from toolchain.spec import SEQUENCE, ModelSpec

__all__ = [
    "Kernels",
    "block_bytes",
    "cast_bytes",
    "ends_bytes",
    "first_token_bytes",
    "passing_bytes",
    "spare_bytes",
]

_WIDE = 4
"""Bytes of what stays in fp32 whatever the precision: sums, norms, statistics."""


@dataclass(frozen=True)
class Kernels:
    """What decides how many bytes a number takes and which kernels run."""

    bf16: bool
    gpu: bool

    @property
    def element(self) -> int:
        """Bytes of a number in matrices and their products."""
        return 2 if self.bf16 else 4

    @property
    def mask(self) -> int:
        """Bytes of an element of a dropout mask."""
        return 1 if self.gpu else self.element


def block_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes one block keeps for the backward pass."""
    if spec.parts.bottleneck:
        per_token = _thin(spec, kernels)
    else:
        e, d, parts = kernels.element, spec.width, spec.parts
        norm = 2 * _WIDE * d if parts.norm_bias else 4 * _WIDE * d
        statistics = 2 * (2 * _WIDE if parts.norm_bias else _WIDE)
        dropped = 2 * kernels.mask * d if parts.dropout else 0
        heads = (spec.query_width + spec.key_width) * (_WIDE + e) if parts.head_norms else 0
        per_token = norm + statistics + dropped + heads + _inputs(spec, kernels) * e * d
        per_token += parts.ffn_kept * e * spec.ffn
    return batch * tokens * (per_token + _attention(spec, batch, tokens, kernels))


def first_token_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes a last block keeps that is computed for its first token alone.

    Those of keys and values and of what they are computed from, and one token's of the rest.
    """
    e, q = kernels.element, spec.query_width
    inputs = (2 if kernels.bf16 else 1) * e * spec.width
    attention = 2 * e * q + e
    if spec.parts.attention_dropout and not kernels.gpu:
        attention = 2 * _WIDE * q + 3 * _WIDE * spec.heads
    return batch * tokens * (inputs + attention) + block_bytes(spec, batch, 1, kernels)


def _inputs(spec: ModelSpec, kernels: Kernels) -> int:
    """Return how many tensors of the width are kept as inputs of linear layers."""
    if not kernels.bf16:
        return 2
    # Autocast makes a copy for every layer that reads an fp32 tensor.
    projections = 1 if families.get(spec.family).fused else 3
    return projections + (2 if spec.parts.ffn_gated else 1)


def _attention(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes per token that attention keeps."""
    e, q, H, parts = kernels.element, spec.query_width, spec.heads, spec.parts
    if parts.relative_rows:
        # Tables of positions and scores against them; the 64-bit indices of two gathers.
        positions = 2 * e * parts.relative_rows * (q // tokens + H) + 16 * tokens // batch
        return 5 * e * q + positions + H * tokens * 3 * e + tokens
    if not parts.fused_attention:
        maps = 2 * _WIDE + e if parts.attention_dropout else _WIDE
        return 4 * e * q + H * tokens * maps
    if parts.attention_dropout and not kernels.gpu:
        return 3 * _WIDE * q + e * q + H * tokens * 3 * _WIDE
    return 4 * e * q + _WIDE * H + e * tokens


def _thin(spec: ModelSpec, kernels: Kernels) -> int:
    """Return the bytes per token of a MobileBERT block but for its attention.

    b is the width inside the bottleneck; its norms are products and sums without statistics.
    """
    b, d, f, S = spec.query_width, spec.width, spec.ffn, spec.parts.ffn_stack
    if not kernels.bf16:
        return 4 * ((5 + 2 * S) * b + 2 * d + S * f)
    return (14 + 6 * S) * b + 10 * d + 2 * S * f


def ends_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes kept before the first block and after the last, logits left out."""
    e, d, parts = kernels.element, spec.width, spec.parts
    per_token = _WIDE * d if parts.embedding_norm else 0
    if parts.dropout:
        per_token += (1 if kernels.gpu else _WIDE) * spec.embedding_width
    if parts.bottleneck:
        # Three neighbours side by side.
        per_token += 3 * e * spec.embedding_width
    if parts.final_norm:
        per_token += (_WIDE if parts.norm_bias else 2 * _WIDE) * d
    if spec.task == "embed":
        # The states in fp32, and what the mask leaves of them.
        per_token += 2 * _WIDE * d
    elif spec.task in SEQUENCE and not spec.causal:
        per_token += _WIDE * d
    elif spec.task == "mask_lm":
        # A dense layer, its activation and its norm before the vocabulary.
        per_token += (2 * e + e + _WIDE) * d
    else:
        per_token += e * d
    return batch * tokens * per_token


def cast_bytes(spec: ModelSpec, kernels: Kernels) -> int:
    """Return the bytes of the bf16 copies of fp32 matrices that autocast keeps for the backward."""
    if not kernels.bf16:
        return 0
    head = spec.head_params()
    if spec.parts.tied and spec.task in ("mask_lm", "causal_lm"):
        head += spec.vocab * spec.embedding_width
    return kernels.element * (spec.layers * spec.block_params() + head)


def passing_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes a pass without gradients needs at once: one block's, and nothing is kept.

    The sum and its norm in fp32; beside them projections with the attention's output, or the
    feed-forward's input and result.
    """
    e, parts = kernels.element, spec.parts
    attention = e * (2 * spec.query_width + 2 * spec.key_width) + e * tokens
    if not parts.fused_attention:
        attention += 2 * _WIDE * spec.heads * tokens
    inner = 3 if parts.ffn_gated or parts.ffn_kept > 2 else 2
    return (
        batch
        * tokens
        * (3 * _WIDE * spec.width + max(attention, e * (spec.width + inner * spec.ffn)))
    )


def spare_bytes(spec: ModelSpec, batch: int, tokens: int, kernels: Kernels) -> int:
    """Return the bytes of gradients that the backward pass of one block holds at once.

    Those of the feed-forward's inner tensors, or of attention's maps where it keeps maps.
    """
    e, parts = kernels.element, spec.parts
    inner = (3 if parts.ffn_gated else 2) * e * spec.ffn
    maps = 0
    if not parts.fused_attention or (parts.attention_dropout and not kernels.gpu):
        maps = 2 * _WIDE * spec.heads * tokens
    return batch * tokens * (2 * _WIDE * spec.width + max(inner, maps))
