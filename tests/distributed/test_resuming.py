"""What one number of ranks saved, another goes on from."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.distributed.conftest import Ranks, check_equal
from tests.distributed.test_two_ranks import case


def stopped(made: dict[str, Any]) -> dict[str, Any]:
    """The same training, stopped half way as by Ctrl-C."""
    return {**made, "stop": 3}


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(
    sharding: Ranks, steady: Path, task_folder: Path, tmp_path: Path
) -> None:
    whole = [case(n, tmp_path, [steady], task_folder, tag="one-") for n in ("kd", "tinybert")]
    fewer = case("kd", tmp_path, [steady], task_folder, student="zero2")
    more = case("tinybert", tmp_path, [steady], task_folder, student="zero3")
    sharding.train([stopped(fewer)], 2, tmp_path)
    assert not Path(fewer["out"]).exists()
    checkpoint = Path(fewer["out"]).with_suffix("") / "checkpoint.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        # One file holds everything, whole.
        embeddings = file.get_tensor("student.bert.embeddings.word_embeddings.weight")
        assert file.get_tensor("optimizer.0.exp_avg").shape == embeddings.shape
    sharding.train([fewer, stopped(more), *whole], 1, tmp_path)
    sharding.train([more], 2, tmp_path)
    for one, resumed in zip(whole, (fewer, more), strict=True):
        check_equal(Path(one["out"]), Path(resumed["out"]), steady / "model.safetensors")
