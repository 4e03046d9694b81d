"""Context: what a term may look at beside the two tensors it compares.

Masks, gold labels, the moment of the run, and the teacher's guidance for selections. A term reads
nothing else: no optimiser, no global flag (methods.md section 1, rule 5).

Shape letters: B batch, N tokens, P rows of logits (B for classifiers, B C for multi-label,
supervised tokens for tagging and language models, 2 B for questions), C outcomes.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolchain.distill.shapes import SPAN
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["Context", "Decoder", "Moment"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a stage stands: `step` of `steps`, `epoch` from 0, and the stage's seed."""

    step: int = 0
    steps: int = 1
    epoch: int = 0
    seed: int = 0

    @property
    def progress(self) -> float:
        """Steps done over steps in all, in [0, 1)."""
        return self.step / self.steps

    def draw(self, purpose: str, when: int) -> "torch.Generator":
        """Return a generator that follows from seed, purpose and `when` (a step or an epoch).

        A resumed run and every rank draw the same numbers, and nothing need be saved.
        """
        text = f"{self.seed}/{purpose}/{when}".encode()
        value = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(value)


_START = Moment()


@dataclass(frozen=True)
class Decoder:
    """The last linear layer of a model's head: weight (V, D), and bias (V,) or None."""

    weight_VD: "Tensor"
    bias_V: "Tensor | None"

    def __call__(self, states_PD: "Tensor", *, learns: bool) -> "Tensor":
        """Return logits (P, V); the layer gets a gradient only where it `learns`."""
        own = (self.weight_VD, self.bias_V)
        weight, bias = (
            None if x is None else (x if learns else x.detach()).to(states_PD.dtype) for x in own
        )
        return torch.nn.functional.linear(states_PD, weight, bias)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Context:
    """One micro-batch's surroundings.

    `mask_BN` is 1 at real tokens. `labels_P` are gold labels of the rows of logits (class ids, or
    scores for a regression); `sample_P` says which sequence a row of logits belongs to (None: row b
    is sequence b). `outcomes` (broadcastable) is true where an outcome of a distribution exists:
    the distiller sets it for maps over pairs of tokens, whose outcomes are keys, and to `places_PN`
    for rows of logits whose outcomes are tokens. `guide` is the
    teacher's knowledge a term asked for as guidance. `kept_K` are the teacher's ids of the outcomes
    of a student with a vocabulary of its own, in the student's order. `standing` are the student's
    blocks, from 1, that a surgery has left in this step (None: all). `decoders` are the last layers
    of both models' heads, for terms on the states these read: the student's, the teacher's.
    """

    mask_BN: "Tensor"
    labels_P: "Tensor | None" = None
    sample_P: "Tensor | None" = None
    moment: Moment = _START
    causal: bool = False
    outcomes: "Tensor | None" = None
    places_PN: "Tensor | None" = None
    guide: "Tensor | None" = None
    kept_K: "Tensor | None" = None
    standing: frozenset[int] | None = None
    decoders: tuple[Decoder, Decoder] | None = None

    @property
    def rows(self) -> int:
        """Rows of logits, P."""
        return int(self.mask_BN.shape[0] if self.sample_P is None else self.sample_P.shape[0])

    @property
    def last_B(self) -> "Tensor":
        """Position of the last real token of each sequence, (B,)."""
        positions = torch.arange(self.mask_BN.shape[1], device=self.mask_BN.device)
        return (self.mask_BN * positions).argmax(-1)

    @property
    def pairs_BNN(self) -> "Tensor":
        """True where a query row may look at a key and both are real tokens, (B, N, N)."""
        valid = self.mask_BN.bool()
        both = valid[:, :, None] & valid[:, None, :]
        return both & self._seen(both) if self.causal else both

    @property
    def keys_B1NN(self) -> "Tensor":
        """True where a key may be looked at, for every query row: (B, 1, 1, N) or (B, 1, N, N)."""
        keys = self.mask_BN.bool()[:, None, None, :]
        if not self.causal:
            return keys
        size = self.mask_BN.shape[1]
        square = torch.ones(size, size, dtype=torch.bool, device=keys.device).tril()
        return keys & square

    @property
    def spans_BMN(self) -> "Tensor":
        """1 where a real token belongs to a span: runs of `SPAN` real tokens, (B, M, N)."""
        spans = -(-self.mask_BN.shape[1] // SPAN)
        span_BN = (self.mask_BN.cumsum(-1) - 1) // SPAN
        number = torch.arange(spans, device=span_BN.device)
        return (span_BN[:, None, :] == number[None, :, None]) & self.mask_BN.bool()[:, None, :]

    def of_spans(self) -> "Context":
        """Return the same batch with spans for positions, the guide averaged over heads and spans.

        The guide (B, 1, M, M) is what a span's tokens give to all tokens of another, in the mean.
        """
        inside = self.spans_BMN
        guide = self.guide
        if guide is not None:
            sums = inside.to(guide.dtype)
            given = sums / sums.sum(-1, keepdim=True).clamp(min=1)
            guide = (given @ guide.mean(1) @ sums.transpose(-1, -2)).unsqueeze(1)
        mask = inside.any(-1).to(self.mask_BN.dtype)
        return replace(self, mask_BN=mask, guide=guide, outcomes=None)

    @staticmethod
    def _seen(both: "Tensor") -> "Tensor":
        return torch.ones_like(both[0]).tril()
