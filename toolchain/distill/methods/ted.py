"""TED: layers are compared through filters that learned what the task needs (Liang et al. 2023)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["TED"]


@method("ted")
@dataclass(frozen=True, kw_only=True)
class TED(Method):
    """L = CE + alpha KD(tau) + beta sum_l MSE(F_l^S(H_l^S), sg[F_g(l)^T(H_g(l)^T)]).

    arXiv 2210.01351. Stage inter: both models are frozen; each layer's filter F (linear, to the
    teacher's width) and a head on its first token learn the labels. Stage pred: the teacher's
    filters stay, the student's go on. tau = 2 and alpha = beta = 20 are the authors' runs on SST-2
    (0 to 20 and 10 to 7500 elsewhere). Their heads have a dense layer and dropout more, and their
    student is fine-tuned before its filters learn; ours starts from teacher layers where it can.
    """

    tau: float = 2.0
    alpha: float = 20.0
    beta: float = 20.0

    def terms(self) -> tuple[Term, ...]:
        """Return what trains the filters, then what reads them."""
        mean, every = reduction.mean_logits, matching.Uniform()
        filters = Term(
            "filters",
            extract.hidden,
            objectives.HeadCrossEntropy("both"),
            mean,
            match=every,
            transforms=(
                transforms.Detach("student"),
                *self._filters(),
                transforms.Pool("cls"),
                transforms.PseudoHead(group="ted_head"),
            ),
            stage="inter",
            layers="mean",
        )
        filtered = Term(
            "filtered",
            extract.hidden,
            objectives.MSE(),
            reduction.mean_feat_mean_tok,
            match=every,
            transforms=(*self._filters(), transforms.Detach("teacher")),
            weight=self.beta,
        )
        soft = objectives.KL(tau=self.tau)
        labels = Term("labels", extract.labels, objectives.CrossEntropy(), mean)
        return (
            filters,
            filtered,
            Term("soft", extract.logits, soft, mean, weight=self.alpha),
            labels,
        )

    @staticmethod
    def _filters() -> tuple[transforms.Transform, ...]:
        def filter_of(side: transforms.Side) -> transforms.Transform:
            return transforms.Project(side=side, owner="layer", group="ted_filter", bias=True)

        return (filter_of("student"), filter_of("teacher"))
