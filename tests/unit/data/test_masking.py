"""Which tokens are hidden: a pure function of seed, step and row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.data.batching import collate
from toolchain.data.masking import IGNORED, Masking
from toolchain.data.tokenizing import Rows

MASKING = Masking(mask_id=4, vocab=1000, special=(0, 1, 2, 3, 4, 500), seed=7)
LONG = np.concatenate([[2], np.arange(10, 4010) % 400 + 10, [3]])


def test_the_shares_are_those_of_bert() -> None:
    hidden, labels = MASKING.apply(LONG, row=0, step=0)
    chosen = labels != IGNORED
    assert chosen.sum() == 600  # 15 % of 4000
    masked = hidden[chosen] == 4
    kept = hidden[chosen] == LONG[chosen]
    assert abs(masked.mean() - 0.8) < 0.05
    assert abs(kept.mean() - 0.1) < 0.04
    assert abs((~masked & ~kept).mean() - 0.1) < 0.04


def test_random_tokens_are_ordinary_ones_of_the_whole_vocabulary() -> None:
    drawn: set[int] = set()
    for step in range(200):
        hidden, labels = MASKING.apply(LONG, row=0, step=step)
        chosen = (labels != IGNORED) & (hidden != 4)
        drawn |= set(hidden[chosen].tolist())
    assert not drawn & {0, 1, 2, 3, 500}
    assert max(drawn) == 999
    assert min(drawn) == 5
    assert len(drawn) > 980


@settings(max_examples=100)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=40), st.integers(0, 10**6))
def test_special_tokens_stay_and_some_token_is_always_hidden(ids: list[int], step: int) -> None:
    row = np.array(ids)
    hidden, labels = MASKING.apply(row, row=3, step=step)
    special = np.isin(row, MASKING.special)
    assert (hidden[special] == row[special]).all()
    assert (labels[special] == IGNORED).all()
    ordinary = int((~special).sum())
    expected = min(ordinary, max(1, round(0.15 * ordinary)))
    assert int((labels != IGNORED).sum()) == expected
    assert (row == np.array(ids)).all()


def test_the_same_step_hides_the_same_tokens_and_another_hides_others() -> None:
    def hidden(seed: int, row: int, step: int | None) -> bytes:
        masking = Masking(mask_id=4, vocab=1000, special=(0,), seed=seed)
        return masking.apply(LONG, row=row, step=step)[0].tobytes()

    assert hidden(1, 2, 3) == hidden(1, 2, 3)
    assert hidden(1, 2, None) == hidden(1, 2, None)
    others = [hidden(0, 2, 3), hidden(1, 0, 3), hidden(1, 2, 4), hidden(1, 2, None)]
    assert len({hidden(1, 2, 3), *others}) == 5


def test_a_row_is_masked_alike_in_any_batch_on_any_rank() -> None:
    features = [
        {"input_ids": LONG[:n], "attention_mask": np.ones(n, np.int64)} for n in (9, 30, 50)
    ]
    rows = Rows(
        features=features,
        labels=np.zeros(3, np.int64),
        pad_id=0,
        truncated=0,
        task="mask_lm",
        masking=MASKING,
    )
    whole = collate(rows, [0, 1, 2], step=11)
    alone = collate(rows, [1], step=11)
    assert (whole.labels[1, :30] == alone.labels[0]).all()
    assert (whole.inputs["input_ids"][1, :30] == alone.inputs["input_ids"][0]).all()
    assert (whole.labels[1, 30:] == IGNORED).all()
    assert (collate(rows, [1]).labels != alone.labels).any()
    assert (features[1]["input_ids"] == LONG[:30]).all()
