"""What a rank owns of a student falls with the number of ranks as ZeRO's formulas say."""

import json
from pathlib import Path

import pytest

from tests.conftest import make_teacher
from tests.distributed.conftest import Ranks
from toolchain.models.checkpoint import inspect


def expected(stage: str, numbers: int, ranks: int) -> dict[str, float]:
    """Bytes in fp32: weights, their master copy and two moments; gradients before a step.

    DeepSpeed keeps room for ZeRO-3's gradients, and for a bucket of a sixteenth of the student.
    """
    size = 4 * numbers
    match stage:
        case "zero1":
            return {"kept": size + 3 * size / ranks, "gradients": size}
        case "zero2":
            return {"kept": size + 3 * size / ranks, "gradients": size / ranks}
        case "zero3":
            return {"kept": 5 * size / ranks + size / 16, "gradients": 0}
        case _:
            return {"kept": size / ranks}


@pytest.mark.slow
def test_a_rank_owns_its_part_and_no_more(sharding: Ranks, tmp_path: Path) -> None:
    folder = make_teacher(
        tmp_path / "wide", head=True, hidden_size=128, intermediate_size=512, num_hidden_layers=3
    )
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}"
        sharding.run(["-m", "tests.distributed.owned_bytes", str(folder), str(out)], ranks)
        for rank in range(ranks):
            counted = json.loads(Path(f"{out}.{rank}").read_text())
            for stage, found in counted.items():
                for what, size in expected(stage, found["numbers"], ranks).items():
                    where = f"{stage}, {what} of rank {rank} of {ranks}"
                    assert found[what] == pytest.approx(size, rel=0.05, abs=1000), where
            blocks = 2 * inspect(str(folder)).spec.block_params()
            assert 0 < counted["zero3"]["gathered"] <= 4 * blocks < 4 * counted["zero3"]["numbers"]
