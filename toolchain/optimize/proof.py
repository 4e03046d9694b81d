"""Proof that a rewritten model computes what its source did, by running both."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from toolchain.errors import IntegrityError
from toolchain.optimize.opened import opened

__all__ = ["TOLERANCE", "check_equal"]

Feed = Mapping[str, np.ndarray]

# Largest difference of two logits that rounding explains, where logits are around 1 or smaller.
TOLERANCE = 1e-5

# Rows and tokens: one token alone, padded rows of several lengths.
_SHAPES = ((1, 1), (2, 5), (3, 12))


def check_equal(source: onnx.ModelProto, result: onnx.ModelProto, *, where: str) -> None:
    """Raise IntegrityError unless both models give the same outputs on padded random batches.

    Both are run as written, without a runtime's own optimisations.
    """
    if _signature(source) != _signature(result):
        raise IntegrityError(f"{where}: the rewritten graph has other inputs or outputs")
    feeds = list(_feeds(source))
    # One after the other: each session holds a copy of the weights.
    expected, found = _answers(source, feeds), _answers(result, feeds)
    pairs = [
        (feed, *both)
        for feed, old, new in zip(feeds, expected, found, strict=True)
        for both in zip(old, new, strict=True)
    ]
    for feed, before, after in pairs:
        if before.shape != after.shape:
            raise IntegrityError(
                f"{where}: the rewritten graph returns shape {list(after.shape)}, "
                f"expected {list(before.shape)}"
            )
        moved = float(np.abs(before - after).max(initial=0.0))
        limit = TOLERANCE * max(1.0, float(np.abs(before).max(initial=0.0)))
        if not moved <= limit:
            shape = list(next(iter(feed.values())).shape)
            raise IntegrityError(
                f"{where}: rewriting moved the outputs by {moved:.2e} on inputs of shape "
                f"{shape}, expected at most {limit:.0e}"
            )


def _answers(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    session = opened(proto, optimised=False)
    return [list(map(np.asarray, session.run(None, feed))) for feed in feeds]


def _signature(proto: onnx.ModelProto) -> list[tuple[str, bytes]]:
    values = (*proto.graph.input, *proto.graph.output)
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in values]


def _feeds(proto: onnx.ModelProto) -> Iterator[Feed]:
    rows_of = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    limits = {
        node.input[1]: rows_of[node.input[0]]
        for node in proto.graph.node
        if node.op_type == "Gather" and node.input[0] in rows_of
    }
    generator = np.random.default_rng(0)
    cached = [value for value in proto.graph.input if len(value.type.tensor_type.shape.dim) == 4]
    for rows, tokens in _SHAPES:
        # A decoder reads its first batch with nothing before it, as a prompt.
        before = tokens - 1 if cached else 0
        lengths = generator.integers(1, tokens + 1, rows)
        lengths[0] = tokens
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        known = {
            "attention_mask": np.concatenate([np.ones((rows, before), np.int64), mask], axis=1),
            "position_ids": np.tile(np.arange(before, before + tokens), (rows, 1)),
        }
        for value in cached:
            dims = value.type.tensor_type.shape.dim
            shape = (rows, dims[1].dim_value, before, dims[3].dim_value)
            known[value.name] = generator.standard_normal(shape, dtype=np.float32)
        yield {
            value.name: known[value.name]
            if value.name in known
            else generator.integers(0, limits.get(value.name, 2), (rows, tokens)) * mask
            for value in proto.graph.input
        }
