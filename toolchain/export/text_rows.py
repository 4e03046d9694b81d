"""The second half of a graph that reads text: tokens cut, framed and padded, all rows at once.

Shape letters: R rows, S texts (R, or 2R of pairs), M tokens, N tokens a row.
"""

from collections.abc import Sequence

from onnx import TensorProto

from toolchain.export.nodes import Nodes
from toolchain.export.reading import Piece, Reading

__all__ = ["tokens_in_rows"]


def tokens_in_rows(
    nodes: Nodes,
    reading: Reading,
    pieces: Sequence[Piece],
    tokens: tuple[str, str, str],
    *,
    room: int,
) -> dict[str, str]:
    """Return ids, mask and type ids (R, N) by their names as inputs of a model.

    `tokens` are all texts (S,), the ids of their tokens (M,), and of which text each is (M,);
    `room` is how many of a row's tokens may be of its texts.
    """
    flat_S, ids_M, text_M = tokens
    texts = sum(piece.text is not None for piece in pieces)
    zero, one, none = nodes.numbers([0]), nodes.numbers([1]), nodes.number(0)
    ones_M = nodes.add("Expand", one, nodes.add("Shape", ids_M))
    empty_S = nodes.add("Expand", zero, nodes.add("Shape", flat_S))
    length_S = nodes.add("ScatterElements", empty_S, text_M, ones_M, axis=0, reduction="add")
    start_S = nodes.add("CumSum", length_S, none, exclusive=1)
    place_M = nodes.add("CumSum", ones_M, none, exclusive=1)
    place_M = nodes.add("Sub", place_M, nodes.add("Gather", start_S, text_M))
    length_RS = nodes.add("Reshape", length_S, nodes.numbers([-1, texts]))
    lengths = [nodes.add("Gather", length_RS, nodes.number(i), axis=1) for i in range(texts)]
    kept = _cut(nodes, lengths, room)
    stays_M = nodes.add("Less", place_M, nodes.add("Gather", _flat(nodes, kept), text_M))
    place_M, text_M, ids_M = (
        nodes.add("Compress", values, stays_M, axis=0) for values in (place_M, text_M, ids_M)
    )
    begins, total_R = _begins(nodes, pieces, kept)
    ids, types, full = _frame(nodes, reading, pieces, begins, total_R)
    own = [
        (piece, begin) for piece, begin in zip(pieces, begins, strict=True) if piece.token is None
    ]
    own.sort(key=lambda pair: pair[0].text or 0)
    begin_S = _flat(nodes, [begin for _, begin in own])
    row_M = nodes.add("Div", text_M, nodes.number(texts))
    column_M = nodes.add("Add", place_M, nodes.add("Gather", begin_S, text_M))
    which_M = nodes.add("Mod", text_M, nodes.number(texts))
    type_M = nodes.add("Gather", nodes.numbers([piece.type_id for piece, _ in own]), which_M)
    index = _index(nodes, row_M, column_M)
    return {
        "input_ids": nodes.add("ScatterND", ids, index, ids_M),
        "attention_mask": full,
        "token_type_ids": nodes.add("ScatterND", types, index, type_M),
    }


def _begins(nodes: Nodes, pieces: Sequence[Piece], kept: Sequence[str]) -> tuple[list[str], str]:
    """Return where in its row each piece begins, (R,) each, and how long each row is, (R,)."""
    at = nodes.add("Expand", nodes.numbers([0]), nodes.add("Shape", kept[0]))
    begins = []
    for piece in pieces:
        begins.append(at)
        at = nodes.add("Add", at, nodes.numbers([1]) if piece.text is None else kept[piece.text])
    return begins, at


def _frame(
    nodes: Nodes, reading: Reading, pieces: Sequence[Piece], begins: Sequence[str], total_R: str
) -> tuple[str, str, str]:
    """Return ids and types (R, N) of padding and special tokens alone, and the mask."""
    zero, one = nodes.number(0), nodes.number(1)
    rows = nodes.add("Shape", total_R)
    longest = nodes.add("ReduceMax", total_R, keepdims=1)
    shape = nodes.add("Concat", rows, longest, axis=0)
    row_R = nodes.add("Range", zero, nodes.add("Squeeze", rows), one)
    ids = nodes.add("Expand", nodes.numbers([[reading.pad_id]]), shape)
    types = nodes.add("Expand", nodes.numbers([[reading.pad_type_id]]), shape)
    for piece, begin in zip(pieces, begins, strict=True):
        if piece.token is not None:
            index = _index(nodes, row_R, begin)
            token_R = nodes.add("Expand", nodes.numbers([piece.token]), rows)
            ids = nodes.add("ScatterND", ids, index, token_R)
            type_R = nodes.add("Expand", nodes.numbers([piece.type_id]), rows)
            types = nodes.add("ScatterND", types, index, type_R)
    place_N = nodes.add("Range", zero, nodes.add("Squeeze", longest), one)
    full = nodes.add("Less", place_N, nodes.add("Unsqueeze", total_R, nodes.numbers([1])))
    return ids, types, nodes.add("Cast", full, to=TensorProto.INT64)


def _cut(nodes: Nodes, lengths: list[str], room: int) -> list[str]:
    """Return how many tokens of each text stay, as the strategy `longest_first` says."""
    most = nodes.number(room)
    if len(lengths) == 1:
        return [nodes.add("Min", lengths[0], most)]
    first, second = lengths
    short, half = nodes.add("Min", first, second), nodes.number(room // 2)
    over = nodes.add("Greater", nodes.add("Add", first, second), most)
    # Both are halved when even the shorter one is longer than half.
    even = nodes.add("Greater", nodes.add("Mul", short, nodes.number(2)), most)
    less = nodes.add("Where", even, half, short)
    more = nodes.add("Sub", most, less)
    swapped = nodes.add("Greater", first, second)
    kept_first = nodes.add("Where", swapped, more, less)
    kept_second = nodes.add("Where", swapped, less, more)
    return [
        nodes.add("Where", over, kept_first, first),
        nodes.add("Where", over, kept_second, second),
    ]


def _index(nodes: Nodes, rows: str, columns: str) -> str:
    minus = nodes.numbers([-1])
    pairs = [nodes.add("Unsqueeze", values, minus) for values in (rows, columns)]
    return nodes.add("Concat", *pairs, axis=1)


def _flat(nodes: Nodes, columns: Sequence[str]) -> str:
    """Return columns (R,) as one vector (S,), row by row."""
    wide = [nodes.add("Unsqueeze", values, nodes.numbers([1])) for values in columns]
    joined = nodes.add("Concat", *wide, axis=1)
    return nodes.add("Reshape", joined, nodes.numbers([-1]))
