"""Structured pruning while distilling: masks that close under a Lagrangian, then really cut.

CoFi (Xia, Zhong, Chen, ACL 2022; arXiv 2204.00408) over blocks' halves, heads, inner and hidden
features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery.fold import cut_out
from toolchain.distill.surgery.masks import (
    KINDS,
    Cut,
    Masks,
    best_cut,
    drawn,
    expected_sparsity,
    sizes,
)
from toolchain.distill.surgery.surgery import Operation, Surgery
from toolchain.lazy import lazy
from toolchain.models.family import families
from toolchain.spec import LABELLED, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from toolchain.distill.teachers import Readable, TrainingModel
else:
    torch = lazy("torch")

__all__ = ["L0Masks", "Masking"]

# Where log alpha starts: 97 of 100 gates are drawn as exactly 1.
_OPEN = 5.0
# How far log alpha must be able to travel to close a gate, with room to spare.
_WAY = 16.0


@dataclass(frozen=True)
class L0Masks(Surgery):
    """Hard concrete masks with lambda1 (s - t) + lambda2 (s - t)^2; arXiv 2204.00408, section 3.1.

    s is the expected sparsity of the blocks. The target t rises to `sparsity` over `warmup` of the
    stage. At `until` the shape is fixed and its weights are trained on. Masks and lambdas (these by
    gradient ascent) learn at `rate`, or faster where a short stage would not let a mask close.
    """

    key: ClassVar[str] = "l0_masks"
    reshapes: ClassVar[bool] = True
    sparsity: float = 0.6
    warmup: float = 0.2
    until: float = 0.7
    rate: float = 0.01

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:  # noqa: ARG002
        """Raise Unfit for a student whose parts cannot be cut out."""
        if not 0 < self.sparsity < 1 or not 0 < self.warmup <= self.until <= 1:
            raise Unfit(
                f"sparsity {self.sparsity:g}, warmup {self.warmup:g}, until {self.until:g}",
                "sparsity is between 0 and 1, and 0 < warmup <= until <= 1",
            )
        family = families.get(student.family)
        if family.out is None or family.ffn is None or student.embedding_width != student.width:
            able = [name for name in families.names() if families.get(name).out]
            raise Unfit(
                f"{student.family} models (embeddings {student.embedding_width} wide, blocks "
                f"{student.width}) cannot be cut",
                f"families whose blocks can: {', '.join(able)}, with embeddings as wide as blocks",
            )
        if student.task not in LABELLED:
            raise Unfit(f"the task is {student.task}", "prune models for labelled tasks")
        least = replace(
            student, layers=1, width=student.head_width, heads=1, kv_heads=1, ffn=1,
            embedding_width=student.head_width,
        )  # fmt: skip
        if least.block_params() > (1 - self.sparsity) * student.layers * student.block_params():
            raise Unfit(
                f"sparsity {self.sparsity:g} leaves less than one block with one head",
                "ask for less",
            )

    def begin(
        self,
        student: "TrainingModel",
        teachers: "Sequence[Readable]",  # noqa: ARG002
    ) -> "Masking":
        """Put masks on the student."""
        return Masking(self, student)


class Masking(Operation):
    """Masks on one student: hooks and norms of its own, no module more."""

    def __init__(self, surgery: L0Masks, student: "TrainingModel") -> None:
        self._surgery, self._student = surgery, student
        device = next(student.model.parameters()).device
        self._shapes = sizes(student.spec)
        self._learned = torch.nn.ParameterDict(
            {kind: torch.full((_count(shape),), _OPEN) for kind, shape in self._shapes.items()}
        )
        for name in ("lambda1", "lambda2"):
            # The masks' minimum is their maximum: gradients turn round.
            self._learned[name] = torch.nn.Parameter(torch.zeros(1))
            self._learned[name].register_hook(torch.neg)
        self._learned.to(device)
        self._drawn: Masks | None = None
        self._fixed: tuple[dict[str, Tensor], Cut] | None = None
        self._now = self.cut.masks
        self._entrance = student.model.register_forward_pre_hook(self._choose, prepend=True)
        self._attach()

    @property
    def module(self) -> "nn.Module":
        """The log alphas and lambdas."""
        return self._learned

    @property
    def cut(self) -> Cut:
        """What the masks leave of the student as they are now: its shape in evaluation mode."""
        log_alpha = {k: v.detach() for k, v in self._log_alpha().items()}
        if self._fixed is not None:
            known, cut = self._fixed
            if all(torch.equal(known[kind], log_alpha[kind]) for kind in KINDS):
                return cut
        # Evaluation runs in inference mode; training goes on with the same masks.
        with torch.inference_mode(False), torch.no_grad():
            kept = {kind: value.clone() for kind, value in log_alpha.items()}
            cut = best_cut(kept, self._student.spec, self._surgery.sparsity)
        self._fixed = (kept, cut)
        return cut

    @property
    def standing(self) -> frozenset[int] | None:
        """The blocks whose masks of this step leave one half open at least."""
        masks = self.cut.masks if self._drawn is None else self._drawn
        open_L = (masks.attention_L != 0) | (masks.ffn_L != 0)
        # Where none is, they all pass on what they read, and any may stand for the others.
        return frozenset((open_L.nonzero().flatten() + 1).tolist()) or None

    def rate(self, moment: Moment) -> float:
        """Return the masks' and lambdas' learning rate, which has no schedule."""
        return max(self._surgery.rate, _WAY / (self._surgery.until * moment.steps))

    def before_step(self, moment: Moment) -> None:
        """Draw the masks of the step; none once the shape is fixed."""
        self._drawn = None
        if moment.progress < self._surgery.until:
            draw = moment.draw(self._surgery.key, moment.step)
            self._drawn = drawn(self._log_alpha(), draw)

    def penalty(self, moment: Moment) -> "Tensor | None":
        """Return the Lagrangian, until the shape is fixed."""
        if self._drawn is None:
            return None
        target = self._surgery.sparsity * min(1.0, moment.progress / self._surgery.warmup)
        off = expected_sparsity(self._log_alpha(), self._student.spec) - target
        lambdas = torch.cat([self._learned["lambda1"], self._learned["lambda2"]])
        return (lambdas * torch.stack([off, off * off])).sum()

    def heal(self) -> None:
        """Fold the masks into the weights and cut rows and columns out."""
        self._entrance.remove()
        cut_out(self._student, self.cut)

    def _log_alpha(self) -> "dict[str, Tensor]":
        return {kind: self._learned[kind].view(self._shapes[kind]) for kind in KINDS}

    def _choose(self, model: "nn.Module", args: object) -> None:  # noqa: ARG002
        masks = self._drawn if model.training else None
        self._now = self.cut.masks if masks is None else masks

    def _attach(self) -> None:
        student, family = self._student, self._student.family
        assert family.out is not None
        assert family.ffn is not None
        backbone = student.model.get_submodule(family.backbone)
        for module in backbone.modules():
            if isinstance(module, torch.nn.LayerNorm):
                self._mask_norm(module)
        for layer in range(student.spec.layers):
            block = backbone.get_submodule(f"{family.blocks}.{layer}")
            out, last = block.get_submodule(family.out), block.get_submodule(family.ffn[1])
            out.register_forward_pre_hook(self._times("heads", layer))
            out.register_forward_hook(self._gated("attention", layer))
            last.register_forward_pre_hook(self._times("inner", layer))
            last.register_forward_hook(self._gated("ffn", layer))
            block.register_forward_hook(self._skipped(layer), with_kwargs=True)
        head = student.model.get_submodule(family.head(student.spec.task).last)
        head.register_forward_pre_hook(self._times("hidden"))

    def _mask(self, kind: str, layer: int) -> "Tensor":
        """Return the multipliers of one kind in one block, per feature."""
        masks = self._now
        match kind:
            case "attention":
                return masks.attention_L[layer]
            case "ffn":
                return masks.ffn_L[layer]
            case "heads":
                return masks.heads_LH[layer].repeat_interleave(self._student.spec.head_width)
            case "inner":
                return masks.inner_LF[layer]
            case _:
                return masks.hidden_D

    def _times(self, kind: str, layer: int = 0) -> "Callable[..., object]":
        """Let a module read its input times masks."""

        def hook(module: "nn.Module", args: "tuple[Tensor, ...]") -> object:  # noqa: ARG001
            return (args[0] * self._mask(kind, layer), *args[1:])

        return hook

    def _gated(self, kind: str, layer: int) -> "Callable[..., object]":
        """Let half a block add its output times the gate of the half and the hidden masks."""

        def hook(module: "nn.Module", args: object, output: "Tensor") -> object:  # noqa: ARG001
            return output * (self._mask(kind, layer) * self._now.hidden_D)

        return hook

    def _skipped(self, layer: int) -> "Callable[..., object]":
        """Let a block with both halves shut pass its input on, without its norms."""

        def hook(
            module: "nn.Module",  # noqa: ARG001
            args: "tuple[object, ...]",
            kwargs: dict[str, object],
            output: object,
        ) -> object:
            if self._now.attention_L[layer] != 0 or self._now.ffn_L[layer] != 0:
                return output
            entered = args[0] if args else kwargs["hidden_states"]
            # transformers 4 returns a tuple from a block, transformers 5 a tensor.
            return (entered, *output[1:]) if isinstance(output, tuple) else entered

        return hook

    def _mask_norm(self, norm: "nn.LayerNorm") -> None:
        """Let a norm go over the hidden features that are kept."""
        own = norm.forward

        def forward(x: "Tensor") -> "Tensor":
            masks = self._now
            if masks.whole:
                return own(x) * masks.hidden_D
            x = x if x.dtype == torch.float64 else x.float()
            kept = masks.kept_D.to(x.dtype)
            count = kept.sum().clamp(min=1)
            centred = (x - (x * kept).sum(-1, keepdim=True) / count) * kept
            variance = centred.square().sum(-1, keepdim=True) / count
            scaled = centred * torch.rsqrt(variance + norm.eps)
            return (scaled * norm.weight + norm.bias) * masks.hidden_D

        norm.forward = forward  # type: ignore[assignment, method-assign]


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[0] * shape[1]
