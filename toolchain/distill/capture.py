"""What a forward pass knows: requested tensors kept by hooks, each once.

The union of all terms' requests decides which hooks exist; nothing else is kept. Queries, keys and
values are taken at their projections and attention scores are recomputed from them, so the model
keeps its fused attention (with SDPA, `output_attentions` gives an empty tuple). Where nothing of a
classifier's last block is asked for, it is computed for the token the head reads (`sparing`). Where
no term reads what the model answers, a pass may end at the last tensor that one does.

`emb` is what the first block reads. `hidden` of a layer is what its block returns: in pre-norm
decoders that of the last block is not normalised yet, whereas `output_hidden_states` ends with the
normalised one. `pooled` is what the last linear layer of the head reads, after any dropout; of a
model of embeddings it is what the model gives.

Shape letters: B batch, N tokens, D width, H heads, K head width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolchain.distill.context import Decoder
from toolchain.distill.extract import Extract, Request, spares_last_block
from toolchain.distill.operators.operator import Patches
from toolchain.errors import UsageError
from toolchain.models.family import Family
from toolchain.models.first_token import first_token_alone
from toolchain.models.outputs import logits_of
from toolchain.spec import SEQUENCE, ModelSpec

__all__ = ["Attention", "Captures", "Gather", "Keeping", "Recorder", "as_it_lies", "sparing"]

Args = tuple[object, ...]
Keywords = dict[str, object]

Keeping = Callable[[Request | None, Tensor], Tensor]
"""What is kept of what a hook sees; without a request, of token ids, cosines and sines."""

Gather = Callable[[Tensor], Tensor]
"""Makes a whole tensor of a parameter that may lie in pieces; all ranks call it together."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What stands between projected queries and keys and the scores the softmax reads.

    `normed` holds queries and keys after a norm of every head, (B, N, H, K); `rotary` cosines and
    sines, (1 or B, N, K); `bias_NNH` what distance adds. `refused` says why scores cannot be
    recomputed.
    """

    normed: Mapping[Request, Tensor] = field(default_factory=dict)
    rotary: tuple[Tensor, Tensor] | None = None
    bias_NNH: Tensor | None = None
    refused: str = ""


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


def as_it_lies(parameter: Tensor) -> Tensor:
    """Return a parameter that is whole."""
    return parameter


def _all_of_it(request: Request | None, tensor: Tensor) -> Tensor:  # noqa: ARG001
    return tensor


def sparing(
    model: PreTrainedModel, family: Family, spec: ModelSpec, requests: frozenset[Request]
) -> AbstractContextManager[None]:
    """Spare within the block what no head and no request reads of the last block."""
    # Several models behind one head have no one last block.
    if isinstance(model, PreTrainedModel) and spares_last_block(spec, requests):
        return first_token_alone(model, family)
    return nullcontext()


class Captures:
    """One side's tensors of one forward pass.

    `heads` is the number of query heads; `decoder` is there where states were asked for. `scores`
    are attention scores that need not be recomputed, by layer.
    """

    def __init__(
        self,
        tensors: Mapping[Request, Tensor],
        heads: int,
        attention: Attention | None = None,
        decoder: Decoder | None = None,
        scores: Mapping[int, Tensor] | None = None,
    ) -> None:
        self._tensors = tensors
        self.decoder = decoder
        self.attention = attention or Attention()
        self._heads = heads
        self._scores = dict(scores or {})
        self._wide: dict[Request, Tensor] = {}

    @property
    def tensors(self) -> Mapping[Request, Tensor]:
        """Every kept tensor in the type the model gave it."""
        return self._tensors

    def tensor(self, request: Request) -> Tensor:
        """Return one kept tensor, in float32 at least; states of layers are converted once."""
        kept = self._tensors[request]
        # What is read outside a graph has none to share with the terms.
        apart = kept.requires_grad and not torch.is_grad_enabled()
        if request.kind not in ("emb", "hidden") or apart:
            return _widened(kept)
        if request not in self._wide:
            self._wide[request] = _widened(kept)
        return self._wide[request]

    def kept(self, request: Request) -> Tensor:
        """Return one kept tensor as the model gave it, in whatever it computes in."""
        return self._tensors[request]

    def get(self, extract: Extract, layer: int) -> Tensor:
        """Return this knowledge of one layer; scores are float32 and computed once.

        Raises UsageError for scores that a family's projections do not give.
        """
        if extract.kind == "attn_scores":
            if layer not in self._scores:
                self._scores[layer] = self._attention_scores(layer)
            return self._scores[layer]
        (request,) = extract.requests(layer)
        return self.tensor(request)

    def _attention_scores(self, layer: int) -> Tensor:
        if self.attention.refused:
            raise UsageError(f"attention scores cannot be read: {self.attention.refused}")
        normed = self.attention.normed.get(Request("q", layer))
        if normed is None:
            head_width = self._tensors[Request("q", layer)].shape[-1] // self._heads
        else:
            head_width = normed.shape[-1]
        q_BHNK = self._split(Request("q", layer), head_width)
        k_BHNK = self._split(Request("k", layer), head_width)
        if self.attention.rotary is not None:
            cos, sin = (_widened(x).unsqueeze(1) for x in self.attention.rotary)
            q_BHNK = q_BHNK * cos + _half_turned(q_BHNK) * sin
            k_BHNK = k_BHNK * cos + _half_turned(k_BHNK) * sin
        # Grouped queries: several heads look at the same keys.
        k_BHNK = k_BHNK.repeat_interleave(self._heads // k_BHNK.shape[1], dim=1)
        scores: Tensor = (q_BHNK * head_width**-0.5) @ k_BHNK.transpose(-1, -2)
        if self.attention.bias_NNH is not None:
            # Of a batch with longer rows it may have more: distances are the same in all.
            N = scores.shape[-1]
            scores = scores + _widened(self.attention.bias_NNH[:N, :N]).permute(2, 0, 1)
        return scores

    def _split(self, request: Request, head_width: int) -> Tensor:
        normed = self.attention.normed.get(request)
        kept = self._tensors[request] if normed is None else normed
        B, N = kept.shape[:2]
        return _widened(kept).view(B, N, -1, head_width).transpose(1, 2)


class _Enough(Exception):
    """Ends a pass of which nothing more is asked."""


class Recorder:
    """Keeps requested tensors of every forward pass of a model, while in a `with` block.

    `keeping` makes of what a hook sees what is kept, for models that others have a part of, and
    `whole` makes whole what is read of their parameters. With `stops`, a pass ends once everything
    is kept; never so where logits are requested.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        spec: ModelSpec,
        requests: Iterable[Request],
        keeping: Keeping = _all_of_it,
        whole: Gather = as_it_lies,
        *,
        stops: bool = False,
    ) -> None:
        self._model = model
        self._keeping, self._whole = keeping, whole
        self._family = family
        self._spec = spec
        self._requests = frozenset(requests)
        answered = any(r.kind == "logits" or self._given(r) for r in self._requests)
        self._stops = stops and not answered
        # Task models hold the bare model under a name, a bare model is it.
        self._backbone: nn.Module = dict(model.named_children()).get(family.backbone, model)
        self._tensors: dict[Request, Tensor] = {}
        self._normed: dict[Request, Tensor] = {}
        self._rotary: tuple[Tensor, Tensor] | None = None
        self._bias: Tensor | None = None
        self._input_ids: Tensor | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._awaited, self._ends = 0, False

    def __enter__(self) -> "Recorder":
        """Install one hook per requested tensor, and those that scores need beside them."""
        begin = self._model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True)
        self._handles.append(begin)
        for request in sorted(self._requests, key=lambda r: (r.kind, r.layer)):
            if request.kind != "logits" and not self._given(request):
                self._handles.append(self._watch(request))
        if any(r.kind in ("q", "k") for r in self._requests):
            self._watch_attention()
        # Every hook but the first keeps one tensor of a pass.
        self._awaited = len(self._handles) - 1
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
        self._forget()

    @contextmanager
    def patched(self, patches: Patches) -> Iterator[None]:
        """Replace outputs of blocks or of the embeddings during one forward pass.

        Tensors are kept after they are replaced.
        """
        handles = []
        for request, patch in patches.items():
            if request.kind == "emb" or request == Request("hidden", 0):
                handles.append(
                    self._block(1).register_forward_pre_hook(
                        _replace_input(patch), prepend=True, with_kwargs=True
                    )
                )
            else:
                assert request.kind == "hidden", request
                block = self._block(request.layer)
                handles.append(block.register_forward_hook(_replace_output(patch), prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Run the model, or what wraps it; return its logits, None where nobody reads them."""
        self._ends = self._stops
        try:
            return logits_of(model(**inputs))
        except _Enough:
            return None
        finally:
            self._ends = False

    def take(self, logits: Tensor | None, rows: Callable[[Tensor], Tensor] = _as_it_is) -> Captures:
        """Return what the last forward pass left, with its logits, and forget it.

        `rows` makes rows (P, C) of logits, and of the states a head reads.
        """
        tensors = dict(self._tensors)
        if logits is not None:
            logits = tensors[Request("logits")] = rows(logits)
            tensors |= {request: logits for request in self._requests if self._given(request)}
        for request in [r for r in tensors if r.kind in ("head", "states")]:
            tensors[request] = rows(self._of_sequences(tensors[request]))
        if Request("pooled") in tensors:
            tensors[Request("pooled")] = self._of_sequences(tensors[Request("pooled")])
        attention = Attention(
            normed=self._normed,
            rotary=self._rotary,
            bias_NNH=self._bias,
            refused=self._family.unsupported.get("attn_scores", ""),
        )
        self._forget()
        decoder = self._decoder() if Request("states") in self._requests else None
        return Captures(tensors, self._spec.heads, attention, decoder)

    def _given(self, request: Request) -> bool:
        """Whether the model's own answer is what is asked for."""
        return request.kind == "pooled" and self._spec.task == "embed"

    def _decoder(self) -> Decoder:
        last = self._model.get_submodule(self._last())
        assert isinstance(last, nn.Linear), f"the head ends in a {type(last).__name__}"
        bias = None if last.bias is None else self._whole(last.bias)
        return Decoder(self._whole(last.weight), bias)

    def _forget(self) -> None:
        self._tensors, self._normed = {}, {}
        self._rotary = self._bias = self._input_ids = None

    def _kept_one(self) -> None:
        seen = sum(x is not None for x in (self._rotary, self._bias))
        if self._ends and len(self._tensors) + len(self._normed) + seen == self._awaited:
            raise _Enough

    def _begin(self, module: nn.Module, args: Args, kwargs: Keywords) -> None:  # noqa: ARG002
        self._forget()
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._input_ids = self._keeping(None, ids) if isinstance(ids, Tensor) else None

    def _block(self, layer: int) -> nn.Module:
        return self._backbone.get_submodule(f"{self._family.blocks}.{layer - 1}")

    def _watch(self, request: Request) -> torch.utils.hooks.RemovableHandle:
        match request.kind:
            case "pooled" | "states":
                last = self._model.get_submodule(self._last())
                return last.register_forward_pre_hook(self._keep_input(request), with_kwargs=True)
            case "head":
                heads = f"{self._family.head(self._spec.task).last}.heads.{request.layer}"
                return self._model.get_submodule(heads).register_forward_hook(
                    self._keep_output(request)
                )
            case "q" | "k" | "v":
                path = self._family.projection(request.kind)
                module = self._block(request.layer).get_submodule(path)
                part = partial(self._family.part, request.kind, self._spec)
                return module.register_forward_hook(self._keep_output(request, part))
            case "hidden" if request.layer > 0:
                block = self._block(request.layer)
                return block.register_forward_hook(self._keep_output(request))
            case _:
                block = self._block(1)
                return block.register_forward_pre_hook(self._keep_input(request), with_kwargs=True)

    def _last(self) -> str:
        task = self._spec.task
        last = self._family.head(task).last
        if not last:
            raise UsageError(
                "pooled and states cannot be read: "
                f"{self._family.name}'s head for {task} ends in no one linear layer",
                "use terms on hidden states or predictions",
            )
        return last

    def _watch_attention(self) -> None:
        family = self._family
        if family.rotary:
            rotary = self._backbone.get_submodule(family.rotary)
            self._handles.append(rotary.register_forward_hook(self._keep_rotary))
        if family.score_bias:
            table = self._backbone.get_submodule(family.score_bias)
            self._handles.append(table.register_forward_hook(self._keep_bias))
        norms = {"q": family.query_norm, "k": family.key_norm}
        for request in self._requests:
            path = norms.get(request.kind)
            if path:
                norm = self._block(request.layer).get_submodule(path)
                self._handles.append(norm.register_forward_hook(self._keep_normed(request)))

    def _keep_output(
        self, request: Request, part: Callable[[int], slice] | None = None
    ) -> Callable[[nn.Module, Args, object], None]:
        def hook(module: nn.Module, args: Args, output: object) -> None:  # noqa: ARG001
            # transformers 4 returns a tuple from a block, transformers 5 a tensor.
            tensor = output[0] if isinstance(output, tuple) else output
            assert isinstance(tensor, Tensor)
            # DeBERTa's projections run again, on positions: the first call is the one on tokens.
            if request not in self._tensors:
                kept = tensor if part is None else tensor[..., part(tensor.shape[-1])]
                self._tensors[request] = self._keeping(request, kept)
                self._kept_one()

        return hook

    def _keep_input(self, request: Request) -> Callable[[nn.Module, Args, Keywords], None]:
        def hook(module: nn.Module, args: Args, kwargs: Keywords) -> None:  # noqa: ARG001
            tensor = args[0] if args else kwargs["hidden_states"]
            assert isinstance(tensor, Tensor)
            if request not in self._tensors:
                self._tensors[request] = self._keeping(request, tensor)
                self._kept_one()

        return hook

    def _keep_normed(self, request: Request) -> Callable[[nn.Module, Args, object], None]:
        def hook(module: nn.Module, args: Args, output: object) -> None:  # noqa: ARG001
            assert isinstance(output, Tensor)
            self._normed[request] = self._keeping(request, output)
            self._kept_one()

        return hook

    def _keep_rotary(self, module: nn.Module, args: Args, output: object) -> None:  # noqa: ARG002
        assert isinstance(output, tuple)
        cos, sin = output
        self._rotary = (self._keeping(None, cos), self._keeping(None, sin))

    def _keep_bias(self, module: nn.Module, args: Args, output: object) -> None:  # noqa: ARG002
        assert isinstance(output, Tensor)
        self._bias = output

    def _of_sequences(self, pooled: Tensor) -> Tensor:
        """Return one vector per sequence where a decoder's head reads every token, (B, D)."""
        if self._spec.task not in SEQUENCE or pooled.ndim == 2:
            return pooled
        assert self._input_ids is not None
        # As the model does: the last token that is not padding, wherever the padding stands.
        padding = self._model.config.pad_token_id
        real_BN = self._input_ids != (-1 if padding is None else padding)
        positions = torch.arange(real_BN.shape[1], device=real_BN.device)
        last_B = (real_BN * positions).argmax(-1)
        return pooled[torch.arange(len(last_B), device=last_B.device), last_B]


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _half_turned(x_BHNK: Tensor) -> Tensor:
    """Return features with their halves exchanged, the new first one negated (RoFormer, eq. 34)."""
    first, second = x_BHNK.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _replace_output(
    patch: Callable[[Tensor], Tensor],
) -> Callable[[nn.Module, Args, object], object]:
    def hook(module: nn.Module, args: Args, output: object) -> object:  # noqa: ARG001
        if isinstance(output, tuple):
            return (patch(output[0]), *output[1:])
        assert isinstance(output, Tensor)
        return patch(output)

    return hook


def _replace_input(
    patch: Callable[[Tensor], Tensor],
) -> Callable[[nn.Module, Args, Keywords], tuple[Args, Keywords]]:
    def hook(module: nn.Module, args: Args, kwargs: Keywords) -> tuple[Args, Keywords]:  # noqa: ARG001
        if args:
            assert isinstance(args[0], Tensor)
            return (patch(args[0]), *args[1:]), kwargs
        tensor = kwargs["hidden_states"]
        assert isinstance(tensor, Tensor)
        return args, {**kwargs, "hidden_states": patch(tensor)}

    return hook
