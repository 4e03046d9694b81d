"""What a forward pass knows: requested tensors kept by hooks, each once.

The union of all terms' requests decides which hooks exist; nothing else is kept. Queries, keys and
values are taken at their projections and attention scores are recomputed from them, so the model
keeps its fused attention (with SDPA, `output_attentions` gives an empty tuple).

Shape letters: B batch, N tokens, D width, H heads, K head width.
"""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

import torch
from torch import Tensor, nn

from toolchain.distill.extract import Extract, Request
from toolchain.models.family import Family
from toolchain.spec import ModelSpec

__all__ = ["Captures", "Recorder"]


class Captures:
    """One side's tensors of one forward pass."""

    def __init__(self, tensors: Mapping[Request, Tensor], heads: int) -> None:
        self._tensors = tensors
        self._heads = heads
        self._scores: dict[int, Tensor] = {}

    def tensor(self, request: Request) -> Tensor:
        """Return one kept tensor, in float32 at least."""
        kept = self._tensors[request]
        return kept if kept.dtype == torch.float64 else kept.float()

    def get(self, extract: Extract, layer: int) -> Tensor:
        """Return this knowledge of one layer; scores are float32 and computed once."""
        if extract.kind == "attn_scores":
            if layer not in self._scores:
                self._scores[layer] = self._attention_scores(layer)
            return self._scores[layer]
        (request,) = extract.requests(layer)
        return self.tensor(request)

    def _attention_scores(self, layer: int) -> Tensor:
        q_BHNK = self._split(self.tensor(Request("q", layer)))
        k_BHNK = self._split(self.tensor(Request("k", layer)))
        scores: Tensor = (q_BHNK * q_BHNK.shape[-1] ** -0.5) @ k_BHNK.transpose(-1, -2)
        return scores

    def _split(self, x_BND: Tensor) -> Tensor:
        B, N, D = x_BND.shape
        return x_BND.view(B, N, self._heads, D // self._heads).transpose(1, 2)


class Recorder:
    """Keeps requested tensors of every forward pass of a model, while in a `with` block."""

    def __init__(
        self, model: nn.Module, family: Family, spec: ModelSpec, requests: Iterable[Request]
    ) -> None:
        self._model = model
        self._family = family
        self._spec = spec
        self._requests = frozenset(requests)
        self._tensors: dict[Request, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Recorder":
        """Install one hook per requested tensor."""
        backbone = self._model.get_submodule(self._family.backbone)
        for request in sorted(self._requests, key=lambda r: (r.kind, r.layer)):
            if request.kind != "logits":
                module = self._module(backbone, request)
                self._handles.append(module.register_forward_hook(self._keep(request)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._tensors = {}

    def take(self, logits: Tensor) -> Captures:
        """Return what the last forward pass left, with its logits, and forget it."""
        tensors = {**self._tensors, Request("logits"): logits}
        self._tensors = {}
        return Captures(tensors, self._spec.heads)

    def _module(self, backbone: nn.Module, request: Request) -> nn.Module:
        family = self._family
        if request.kind == "emb" or (request.kind == "hidden" and request.layer == 0):
            return backbone.get_submodule(family.embeddings)
        block = f"{family.blocks}.{request.layer - 1}"
        paths = {"q": family.query, "k": family.key, "v": family.value}
        path = f"{block}.{paths[request.kind]}" if request.kind in paths else block
        return backbone.get_submodule(path)

    def _keep(self, request: Request) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001
            # transformers 4 returns a tuple from a block, transformers 5 a tensor.
            tensor = output[0] if isinstance(output, tuple) else output
            assert isinstance(tensor, Tensor)
            self._tensors[request] = tensor

        return hook
