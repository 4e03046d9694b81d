"""LiteRT (.tflite): for phones, boards and browsers, converted from the trained model itself.

Graphs are static in shape, so one file holds a signature per length, all over the same weights;
who runs it picks the shortest that holds a row and pads. int8 is ai-edge-quantizer's
`dynamic_wi8_afp32`: weights per channel, activations as they come, one scale per row, no texts
needed; only the two rows of token types stay fp32, for rows of int8 are looked up number by number.
Batches are one row.

Shape letters: N tokens.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import StepError, UsageError
from toolchain.export.answers import answer_of
from toolchain.export.exporter import Exporter, Signature, Source
from toolchain.export.quiet import quiet
from toolchain.export.tflite_file import slim

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["buckets", "convert", "exporter", "quantise"]

_LENGTHS = (16, 32, 64, 128, 256, 512)
_SIGNATURE = "tokens_{}"


def buckets(max_tokens: int) -> tuple[int, ...]:
    """Return the lengths of a file that reads up to `max_tokens`, the last of them that."""
    return (*(n for n in _LENGTHS if n < max_tokens), max_tokens)


def _write(source: Source, out: Path, precision: str) -> Signature:
    """Write `out`. Raises UsageError without a length, StepError for what cannot be converted."""
    if not source.max_tokens:
        raise UsageError("export to litert: shapes are static, and no longest row was given")
    model = source.model().eval()
    outputs = answer_of(model).outputs
    lengths = buckets(source.max_tokens)
    out.parent.mkdir(parents=True, exist_ok=True)
    if precision == "int8":
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.tflite"
            names = convert(model, lengths, plain)
            quantise(plain, out)
    else:
        names = convert(model, lengths, out)
    slim(out)
    return Signature(
        inputs=names,
        outputs=outputs,
        opset=0,
        dynamic_axes={name: ("", "") for name in (*names, *outputs)},
        buckets=lengths,
    )


def convert(model: "PreTrainedModel", lengths: tuple[int, ...], out: Path) -> tuple[str, ...]:
    """Write fp32 graphs of these lengths to the file `out`; returns the names of their inputs."""
    import litert_torch
    import torch

    from toolchain.export.function import input_names, shortened

    names, outputs = input_names(model), answer_of(model).outputs

    class Logits(torch.nn.Module):
        """The model as a function of named tensors that returns its outputs alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: "Tensor") -> dict[str, "Tensor"]:
            """Return the outputs by name for int32 inputs (1, N)."""
            long = {name: values.long() for name, values in inputs.items()}
            found = self.model(**long, return_dict=True)
            return {name: found[name] for name in outputs}

    whole: Any = Logits().eval()
    converter: Any = litert_torch
    for length in lengths:
        ones = torch.ones((1, length), dtype=torch.int32)
        sample = dict.fromkeys(names, ones)
        sample = {name: values.clone() for name, values in sample.items()}
        converter = converter.signature(_SIGNATURE.format(length), whole, sample_kwargs=sample)
    aside = out.with_name(f".{out.name}.aside")
    try:
        with quiet(), shortened(model), torch.no_grad():
            converter.convert().export(str(aside))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        kind = type(model).__name__
        raise StepError(f"export to litert: {kind} cannot be converted: {reason}") from error
    aside.replace(out)
    return names


def quantise(plain: Path, out: Path) -> None:
    """Write the fp32 file `plain` to `out` with int8 weights."""
    with quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

        worker = quantizer.Quantizer(str(plain))
        worker.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        worker.update_quantization_recipe(
            ".*token_type_embeddings.*",
            qtyping.TFLOperationName.EMBEDDING_LOOKUP,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
        aside = out.with_name(f".{out.stem}.aside.tflite")
        aside.unlink(missing_ok=True)
        worker.quantize().export_model(str(aside))
        aside.replace(out)


exporter = Exporter(
    runtime="litert",
    write=_write,
    files={"fp32": "litert/model.tflite", "int8": "litert/model_int8.tflite"},
    packages=("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    extra="litert",
    constraints="constraints-litert.txt",
    tasks=("classify", "multi_label", "regress", "tag", "qa", "mask_lm"),
)
