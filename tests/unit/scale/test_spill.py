"""What is kept comes back as it was, from memory or from disk, and nothing is left behind."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from toolchain.errors import ResourceError
from toolchain.scale.spill import Spill

TENSORS = [
    torch.arange(24, dtype=torch.float32).view(2, 3, 4),
    torch.arange(6).bfloat16().view(3, 2),
    torch.zeros(0, 5),
    torch.tensor(3.5, dtype=torch.float16),
    torch.arange(12, dtype=torch.float32).view(3, 4)[:, 1:3],
]


@contextmanager
def files_of(most: int) -> Iterator[None]:
    """Let the system refuse larger files: a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 30, 100, 10_000])
def test_tensors_come_back_as_they_were(limit: int, tmp_path: Path) -> None:
    with Spill[int](limit, tmp_path) as spill:
        for batch in (0, 1):
            for name, tensor in enumerate(TENSORS):
                spill.put(batch, name, tensor + batch)
        assert spill.memory_bytes <= limit
        assert bool(spill.disk_bytes) == (limit < 10_000)
        for batch in (1, 0):
            assert spill.names(batch) == (0, 1, 2, 3, 4)
            for name, found in spill.pop(batch).items():
                assert found.dtype == TENSORS[name].dtype
                assert torch.equal(found, TENSORS[name] + batch)
        assert spill.names(0) == ()
        assert spill.memory_bytes == 0
    assert not list(tmp_path.iterdir())


def test_a_state_written_again_takes_its_old_place(tmp_path: Path) -> None:
    with Spill[str](0, tmp_path) as spill:
        for step in range(5):
            for batch in range(3):
                spill.put(batch, "state", torch.full((4, 2), float(10 * step + batch)))
        assert spill.disk_bytes == 3 * 8 * 4
        assert [spill.get(batch, "state")[0, 0].item() for batch in range(3)] == [40, 41, 42]


def test_what_is_replaced_or_dropped_counts_no_more(tmp_path: Path) -> None:
    with Spill[str](64, tmp_path) as spill:
        for value in (1.0, 2.0, 3.0):
            spill.put(0, "state", torch.full((16,), value))
        assert (spill.memory_bytes, spill.disk_bytes) == (64, 0)
        spill.put(1, "other", torch.ones(16))
        assert spill.disk_bytes == 64
        spill.drop(0, "state")
        spill.drop(0, "state")
        assert spill.memory_bytes == 0
        assert torch.equal(spill.get(1, "other"), torch.ones(16))


def test_a_slice_does_not_keep_what_it_is_a_slice_of(tmp_path: Path) -> None:
    with Spill[str](1000, tmp_path) as spill:
        spill.put(0, "q", torch.arange(300.0).view(3, 100)[:, :4])
        assert spill.get(0, "q").untyped_storage().nbytes() == 3 * 4 * 4


def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path) -> None:
    with Spill[str](0, tmp_path) as spill, files_of(1024):
        spill.put(0, "small", torch.ones(128))
        with pytest.raises(ResourceError, match="1536 bytes of a teacher's activations") as caught:
            spill.put(0, "large", torch.ones(256))
    assert str(tmp_path) in caught.value.message
    assert "larger disk" in caught.value.hint
