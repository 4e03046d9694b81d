"""Named masked means over the global batch: a weight without its reduction is meaningless.

A reduction splits a mean into a numerator, which depends on activations, and a denominator, which
depends on masks alone. The trainer sums denominators over micro-batches and ranks before the
backward pass, so gradients are those of one mean over the whole batch (methods.md section 0).

Shape letters: B batch, N tokens, H maps, F features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from toolchain.distill.shapes import Positions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Reduction",
    "mean_cls",
    "mean_feat_mean_cls",
    "mean_feat_mean_tok",
    "mean_pair",
    "mean_query",
    "sum_feat_mean_cls",
]


@dataclass(frozen=True)
class Reduction:
    """Reduce distances to one number.

    `features`: what is done with the last axis first ("none": the objective has summed it).
    `over`: "cls" averages (B,) over sequences; "tok" (B, N) over valid tokens; "query" (B, H, N)
    over maps and valid query rows; "pair" (B, H, N, N) over maps and pairs of valid tokens.
    """

    features: Literal["none", "sum", "mean"]
    over: Literal["cls", "tok", "query", "pair"]

    @property
    def name(self) -> str:
        """The name used in recipes and run records, such as `mean_feat_mean_tok`."""
        prefix = "" if self.features == "none" else f"{self.features}_feat_"
        return f"{prefix}mean_{self.over}"

    @property
    def positions(self) -> Positions:
        """The kind of positions it can reduce."""
        match self.over:
            case "query" | "pair":
                return "pair"
            case "cls" | "tok":
                return self.over

    def numerator(self, values: "Tensor", mask_BN: "Tensor") -> "Tensor":
        """Return the masked sum, a scalar in the dtype of `values`."""
        if self.features == "sum":
            values = values.sum(-1)
        elif self.features == "mean":
            values = values.mean(-1)
        mask = mask_BN.to(values.dtype)
        match self.over:
            case "cls":
                return values.sum()
            case "tok":
                return (values * mask).sum()
            case "query":
                return (values.mean(1) * mask).sum()
            case "pair":
                return (values.mean(1) * (mask[:, :, None] * mask[:, None, :])).sum()

    def denominator(self, mask_BN: "Tensor") -> float:
        """Return the number of positions averaged over in this batch."""
        tokens_B = mask_BN.sum(-1).double()
        match self.over:
            case "cls":
                return float(mask_BN.shape[0])
            case "tok" | "query":
                return float(tokens_B.sum())
            case "pair":
                return float(tokens_B.square().sum())


mean_cls = Reduction("none", "cls")
sum_feat_mean_cls = Reduction("sum", "cls")
mean_feat_mean_cls = Reduction("mean", "cls")
mean_feat_mean_tok = Reduction("mean", "tok")
mean_query = Reduction("none", "query")
mean_pair = Reduction("none", "pair")
