"""ExecuTorch (.pte): for phones and boards that run PyTorch's own runtime, by XNNPACK's kernels.

Traced by torch.export from the trained model itself. One row at a time; its length is free, up to
the longest row, for which memory is planned. int8 is torchao's: weights of matrices per channel,
what they are multiplied with as it comes, one scale per token, no texts needed. Word embeddings are
rounded per word. No kernels beside ExecuTorch's own and XNNPACK are needed.

Shape letters: N tokens, V vocabulary, D width.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifact import writing_atomic
from toolchain.errors import StepError, UsageError
from toolchain.export.answers import answer_of
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.export.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["exporter", "quantise"]

_SAMPLE_TOKENS = 7
# Sizes of one would be taken for constants, and MobileBERT leaves a token out. Shorter rows run.
_LEAST_TOKENS = 3


def _write(source: Source, out: Path, precision: str) -> Signature:
    """Write `out`. Raises UsageError without a length, StepError for what cannot be lowered."""
    if not source.max_tokens:
        raise UsageError(
            "export to executorch: memory is planned for the longest row, and none was given"
        )
    from toolchain.export.function import input_names

    model = source.model().eval()
    answer, names = answer_of(model), input_names(model)
    kind = type(model).__name__
    try:
        with quiet():
            if precision == "int8":
                quantise(model)
            program = _lowered(model, names, answer.outputs, source.max_tokens)
    # What goes wrong in tracing or lowering raises whatever torch, or the model's code, raises.
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StepError(
            f"export to executorch: {kind} cannot be lowered: {type(error).__name__}: {reason}"
        ) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_atomic(out) as file:
        program.write_to_file(file)
    axes = tuple("tokens" if axis == "sequence" else "" for axis in answer.axes)
    return Signature(
        inputs=names,
        outputs=answer.outputs,
        opset=0,
        dynamic_axes={
            **dict.fromkeys(names, ("", "tokens")),
            **dict.fromkeys(answer.outputs, axes),
        },
    )


def _lowered(
    model: "PreTrainedModel", names: tuple[str, ...], outputs: tuple[str, ...], longest: int
) -> Any:
    """Return the program for rows of up to `longest` tokens, inputs (1, N)."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from transformers import PreTrainedModel

    from toolchain.export.function import Function, shortened

    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            # Fused attention is taken apart with a guard for rows without any token: six operators
            # that XNNPACK has not, in every block.
            part.set_attn_implementation("eager")
    longest = max(longest, _LEAST_TOKENS + 1)
    tokens = torch.export.Dim("tokens", min=_LEAST_TOKENS, max=longest)
    ones = torch.ones((1, min(_SAMPLE_TOKENS, longest)), dtype=torch.int64)
    function = Function(model, names, outputs).eval()
    with shortened(model), torch.no_grad():
        traced = torch.export.export(
            function,
            tuple(ones.clone() for _ in names),
            dynamic_shapes=(tuple({1: tokens} for _ in names),),
            strict=False,
        )
        edge = to_edge_transform_and_lower(
            traced,
            partitioner=[XnnpackPartitioner()],
            constant_methods={"get_inputs": ",".join(names), "get_outputs": ",".join(outputs)},
        )
        return edge.to_executorch()


def quantise(model: "PreTrainedModel") -> None:
    """Round the weights of `model`, in place, to int8: matrices and the table of words."""
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis

    class RoundedWords(torch.nn.Module):
        """A table (V, D) of int8 with a scale per word."""

        words: torch.Tensor
        scales: torch.Tensor

        def __init__(self, table_VD: torch.Tensor) -> None:
            super().__init__()
            scales_V1 = table_VD.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            self.register_buffer("words", (table_VD / scales_V1).round().to(torch.int8))
            self.register_buffer("scales", scales_V1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """Return the rows of these words, (*ids, D), in fp32."""
            look_up = torch.nn.functional.embedding
            return look_up(ids, self.words).float() * look_up(ids, self.scales)

    quantize_(
        model,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int8, weight_granularity=PerAxis(0)
        ),
    )
    words = model.get_input_embeddings()
    for path, module in list(model.named_modules()):
        # A kind of its own does more than look up.
        if module is words and type(module) is torch.nn.Embedding:
            model.set_submodule(path, RoundedWords(module.weight.detach()))


exporter = Exporter(
    runtime="executorch",
    write=_write,
    files={"fp32": "executorch/model.pte", "int8": "executorch/model_int8.pte"},
    packages=("executorch.exir", "torchao"),
    extra="executorch",
    tasks=("classify", "multi_label", "regress", "tag", "qa", "mask_lm", "embed"),
)
