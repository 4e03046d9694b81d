"""Scaled dot-product attention as the fewest ONNX nodes: product, scale, mask, softmax, product.

The tracer's own translation computes shapes at run time, scales queries and keys apart, and guards
every row against having no key at all, which a mask of finite values cannot cause.

Shapes: B batch, H heads, N tokens, K head width.
"""

import onnx_ir as ir
from onnxscript import values

from toolchain.errors import UsageError

__all__ = ["plain_attention"]

# Every op below means the same in each opset from this one to 21.
_op = values.Opset("", 18)


def plain_attention(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """Translate `torch.nn.functional.scaled_dot_product_attention` of (B, H, N, K) tensors.

    A boolean mask becomes 0 where it holds and the lowest finite number where it does not. Raises
    UsageError for causal attention and for key heads shared by query heads.
    """
    if is_causal or enable_gqa or dropout_p:
        raise UsageError("export to onnx: only plain bidirectional attention is supported")
    width = query.shape[3] if query.shape is not None else None
    if query.dtype is None or not isinstance(width, int):
        raise UsageError("export to onnx: attention heads must have a fixed width and type")
    factor = width**-0.5 if scale is None else scale
    scores = _op.MatMul(query, _op.Transpose(key, perm=[0, 1, 3, 2]))
    scores = _op.Mul(scores, _op.Constant(value=ir.tensor(factor, dtype=query.dtype)))
    if attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype == ir.DataType.BOOL:
            open_ = _op.Constant(value=ir.tensor(0.0, dtype=query.dtype))
            shut = _op.Constant(value=ir.tensor(query.dtype.min, dtype=query.dtype))
            bias = _op.Where(attn_mask, open_, shut)
        scores = _op.Add(scores, bias)
    mixed: ir.Value = _op.MatMul(_op.Softmax(scores, axis=-1), value)
    return mixed
