"""Named masked means over the global batch: a weight without its reduction is meaningless.

A reduction splits a mean into numerators, one per row, which depend on activations, and a
denominator, which depends on masks alone. The trainer sums denominators over micro-batches and
ranks before the backward pass, so gradients are those of one mean over the whole batch
(methods.md section 0). Rows stay apart so that several teachers can be weighed sample by sample.

Shape letters: B batch, N tokens, H maps, F features, P rows of logits.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from toolchain.distill.context import Context
from toolchain.distill.shapes import Positions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "REDUCTIONS",
    "Reduction",
    "mean_batch",
    "mean_cls",
    "mean_feat_mean_cls",
    "mean_feat_mean_logits",
    "mean_feat_mean_span",
    "mean_feat_mean_tok",
    "mean_logits",
    "mean_pair",
    "mean_query",
    "mean_sample",
    "mean_span",
    "mean_span_pair",
    "mean_tok",
    "sum_feat_mean_cls",
    "sum_feat_mean_logits",
    "sum_feat_mean_span",
    "sum_feat_mean_tok",
]


@dataclass(frozen=True)
class Reduction:
    """Reduce distances to one number.

    `features`: what is done with the last axis first ("none": the objective has summed it).
    `over`: "logits" averages (P,) over rows of logits; "cls" (B,) over sequences; "tok" (B, N) over
    valid tokens; "span" (B, M) over spans; "query" (B, H, N) over maps and valid query rows; "pair"
    (B, H, N, N) over maps and pairs of valid tokens, or (B,) already summed over pairs and averaged
    over maps; "span_pair" the latter over pairs of spans; "sample" (B, B) over pairs of sequences;
    "batch" takes one value () of a whole (micro-)batch and weighs it by its sequences.
    """

    features: Literal["none", "sum", "mean"]
    over: Literal["logits", "cls", "tok", "span", "query", "pair", "span_pair", "sample", "batch"]

    @property
    def name(self) -> str:
        """The name used in recipes and run records, such as `mean_feat_mean_tok`."""
        prefix = "" if self.features == "none" else f"{self.features}_feat_"
        return f"{prefix}mean_{self.over}"

    def fits(self, positions: Positions) -> bool:
        """Return whether it can reduce values at these positions."""
        match self.over:
            case "query" | "pair":
                return positions == "pair"
            case "batch":
                return True
            case _:
                return positions == self.over

    def numerators(self, values: "Tensor", context: Context) -> "Tensor":
        """Return the masked sums, one per sequence (B,) or row of logits (P,)."""
        if self.features == "sum":
            values = values.sum(-1)
        elif self.features == "mean" and self.over == "logits" and context.outcomes is not None:
            values = values.sum(-1) / context.outcomes.sum(-1)
        elif self.features == "mean":
            values = values.mean(-1)
        mask = context.mask_BN.to(values.dtype)
        match self.over:
            case "logits" | "cls":
                return values
            case "tok":
                # Of stacked layers, their mean.
                layers = values.flatten(2).mean(-1) if values.ndim > 2 else values
                return (layers * mask).sum(-1)
            case "span":
                return (values * context.spans_BMN.any(-1)).sum(-1)
            case "query":
                return (values.mean(1) * self._queries(context).to(values.dtype)).sum(-1)
            case "pair" if values.ndim == 1:
                return values
            case "span_pair":
                return values
            case "pair":
                return (values.mean(1) * context.pairs_BNN.to(values.dtype)).sum((-2, -1))
            case "sample":
                return values.sum(-1)
            case "batch":
                return values.expand(mask.shape[0])

    def denominator(self, context: Context) -> float:
        """Return the number of positions averaged over in this batch."""
        mask_BN = context.mask_BN
        match self.over:
            case "logits":
                return float(context.rows)
            case "cls" | "batch":
                return float(mask_BN.shape[0])
            case "tok":
                return float(mask_BN.sum())
            case "query":
                return float(self._queries(context).sum())
            case "pair":
                return float(context.pairs_BNN.sum())
            case "span":
                return float(context.spans_BMN.any(-1).sum())
            case "span_pair":
                return float(context.of_spans().pairs_BNN.sum())
            case "sample":
                return float(mask_BN.shape[0] ** 2)

    @staticmethod
    def _queries(context: Context) -> "Tensor":
        # The first row of a causal map sees one key: it is always one-hot and would only dilute.
        if not context.causal:
            return context.mask_BN
        later = context.mask_BN.clone()
        later[:, 0] = 0
        return later


mean_logits = Reduction("none", "logits")
sum_feat_mean_logits = Reduction("sum", "logits")
mean_feat_mean_logits = Reduction("mean", "logits")
mean_cls = Reduction("none", "cls")
sum_feat_mean_cls = Reduction("sum", "cls")
mean_feat_mean_cls = Reduction("mean", "cls")
mean_tok = Reduction("none", "tok")
sum_feat_mean_tok = Reduction("sum", "tok")
mean_feat_mean_tok = Reduction("mean", "tok")
mean_span = Reduction("none", "span")
sum_feat_mean_span = Reduction("sum", "span")
mean_feat_mean_span = Reduction("mean", "span")
mean_query = Reduction("none", "query")
mean_pair = Reduction("none", "pair")
mean_span_pair = Reduction("none", "span_pair")
mean_sample = Reduction("none", "sample")
mean_batch = Reduction("none", "batch")

REDUCTIONS = {
    reduction.name: reduction
    for reduction in (
        mean_logits,
        sum_feat_mean_logits,
        mean_feat_mean_logits,
        mean_cls,
        sum_feat_mean_cls,
        mean_feat_mean_cls,
        mean_tok,
        sum_feat_mean_tok,
        mean_feat_mean_tok,
        mean_span,
        sum_feat_mean_span,
        mean_feat_mean_span,
        mean_query,
        mean_pair,
        mean_span_pair,
        mean_sample,
        mean_batch,
    )
}
"""Every reduction by the name recipes use."""
