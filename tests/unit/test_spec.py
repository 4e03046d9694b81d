"""Arithmetic of shapes, against real models and the table of methods.md section 7."""

from dataclasses import replace
from pathlib import Path

import pytest

from toolchain import layermap
from toolchain.layermap import LayerMap
from toolchain.models.checkpoint import inspect
from toolchain.spec import ModelSpec, Parts

BERT = ModelSpec(
    family="bert", layers=12, width=768, heads=12, ffn=3072, vocab=30522, max_tokens=512
)


@pytest.mark.parametrize(
    ("layers", "width", "ffn", "millions", "gmacs"),
    [(12, 768, 3072, 109.5, 11.17), (6, 768, 3072, 67.0, 5.59), (6, 384, 1536, 22.7, 1.43),
     (3, 384, 1536, 17.4, 0.72), (4, 312, 1200, 14.4, 0.62), (2, 128, 512, 4.4, 0.06)],
)  # fmt: skip
def test_parameters_and_products_are_those_of_the_published_shapes(
    layers: int, width: int, ffn: int, millions: float, gmacs: float
) -> None:
    spec = BERT.reshaped(layers=layers, width=width, ffn=ffn)
    assert spec.params() / 1e6 == pytest.approx(millions, abs=0.06)
    assert spec.macs(128) / 1e9 == pytest.approx(gmacs, abs=0.006)


def test_parameters_are_counted_exactly(teacher_folder: Path) -> None:
    found = inspect(str(teacher_folder))
    real = sum(
        1 if not shape else __import__("math").prod(shape) for shape in found.tensors.values()
    )
    assert found.spec.params() == real


def test_heads_keep_their_number_where_it_divides_and_their_width_elsewhere() -> None:
    assert BERT.reshaped(width=312).heads == 12
    assert BERT.reshaped(width=256).heads == 4
    assert BERT.reshaped(width=384).ffn == 1536


GROUPED = replace(BERT, kv_heads=4, rotary=True, parts=Parts(free_heads=True))


def test_what_is_left_out_follows_from_the_rest() -> None:
    assert (BERT.kv_heads, BERT.head_width, BERT.embedding_width) == (12, 64, 768)
    assert (BERT.query_width, BERT.key_width, GROUPED.key_width) == (768, 768, 256)
    assert replace(BERT, num_labels=3) == replace(BERT, num_labels=3, kv_heads=12, head_width=64)


def test_grouped_queries_keep_their_ratio_where_heads_divide() -> None:
    assert GROUPED.reshaped(width=384).kv_heads == 4
    assert GROUPED.reshaped(heads=6).kv_heads == 2
    assert GROUPED.reshaped(heads=8).kv_heads == 2
    assert GROUPED.reshaped(heads=2).kv_heads == 1
    assert replace(GROUPED, kv_heads=5).problem() == "5 key-value heads do not divide 12 heads"


def test_heads_of_a_width_of_their_own_keep_it() -> None:
    free = replace(GROUPED, head_width=128)
    assert (free.query_width, free.key_width) == (1536, 512)
    narrow = free.reshaped(width=320)
    assert (narrow.heads, narrow.kv_heads, narrow.head_width) == (12, 4, 128)
    assert narrow.problem() is None
    assert str(narrow) == "12 x 320 (12 heads on 4 of 128, ffn 1280)"
    assert not narrow.same_blocks(free)
    assert free.reshaped(layers=3).same_blocks(free)


def test_rotary_heads_stay_even() -> None:
    assert replace(GROUPED, kv_heads=12).reshaped(width=60).heads == 1
    odd = replace(GROUPED, head_width=63).problem()
    assert odd == "rotary positions turn pairs of features, but heads are 63 wide"


def test_narrow_embeddings_stay_and_wide_ones_follow_the_width() -> None:
    assert BERT.reshaped(width=384).embedding_width == 384
    assert replace(BERT, embedding_width=128).reshaped(width=384).embedding_width == 128


def test_a_gated_decoder_is_counted_by_hand() -> None:
    parts = Parts(
        qkv_bias=False,
        out_bias=False,
        ffn_bias=False,
        ffn_gated=True,
        norm_bias=False,
        embedding_norm=False,
        final_norm=True,
        learned_positions=False,
    )
    spec = ModelSpec(
        family="llama", layers=5, width=64, heads=8, kv_heads=4, ffn=172, vocab=512,
        max_tokens=512, token_types=0, task="causal_lm", causal=True, rotary=True, parts=parts,
    )  # fmt: skip
    assert spec.block_params() == 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 172 + 2 * 64
    assert spec.params() == 260_032
    assert replace(spec, parts=replace(parts, tied=False)).params() == 260_032 + 512 * 64
    assert spec.macs(2) == 5 * (2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 172) + 2 * 4 * 64)


def test_a_shape_that_cannot_be_built_says_why() -> None:
    assert BERT.problem() is None
    problem = BERT.reshaped(heads=7).problem()
    assert problem is not None
    assert "7 heads do not divide a width of 768" in problem
    assert "12" in problem


def test_the_uniform_map_rounds_half_up_and_ends_at_the_end() -> None:
    assert layermap.uniform(5, 12).teacher == (2, 5, 7, 10, 12)
    assert layermap.uniform(4, 12).teacher == (3, 6, 9, 12)
    assert layermap.uniform(6, 6).pairs == tuple((i, i) for i in range(1, 7))


def test_skip_leaves_the_last_block_out_and_last_takes_only_it() -> None:
    assert layermap.skip(6, 12).pairs == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    assert layermap.last(3, 6).pairs == ((3, 6),)
    assert layermap.first(3, 6).pairs == ((1, 1), (2, 2), (3, 3))


def test_a_map_that_does_not_fit_says_which_layer() -> None:
    assert LayerMap(((1, 7),)).problem(3, 6) == "teacher layer 7 does not exist: the teacher has 6"
    assert LayerMap(((4, 1),)).problem(3, 6) == "student layer 4 does not exist: the student has 3"
