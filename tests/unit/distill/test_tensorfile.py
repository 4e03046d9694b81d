"""Tensors written one at a time are read by safetensors, and storing takes no copy of them all."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from toolchain.artifact import writing_atomic
from toolchain.distill.checkpointing import TrainingState, moments_of, restore, store, tensors_of
from toolchain.distill.tensorfile import TensorFile
from toolchain.errors import ResourceError


def test_every_type_and_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = torch.randn(5, 7)
    written = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "wide": torch.arange(4, dtype=torch.int64) * 2**40,
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3, 3).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "table": table,
        "tied": table,
        "turned": table.T,
    }
    path = tmp_path / "file.safetensors"
    with writing_atomic(path) as raw:
        file = TensorFile(raw, most=100, state="{}")
        for name, tensor in written.items():
            file.add(name, tensor)
        file.end()
    with safe_open(path, framework="pt") as found:
        assert found.metadata() == {"state": "{}"}
        for name, tensor in written.items():
            assert torch.equal(found.get_tensor(name), tensor), name
            assert found.get_tensor(name).dtype == tensor.dtype
        others = set(found.keys()) - set(written)
    assert all(name.startswith("gap.") for name in others)


class Allocated(TorchDispatchMode):
    """Counts the bytes of tensors that do not stand on one that was there."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(found, torch.Tensor) and found.untyped_storage().data_ptr() not in given:
            self.bytes += found.untyped_storage().nbytes()
        return found


def test_a_state_is_stored_without_a_copy_of_it_and_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.Linear(300, 200))
    weights = {f"student.{name}": tensor for name, tensor in model.state_dict().items()}
    moments = [
        (i, {"step": torch.tensor(3.0), "exp_avg": torch.randn_like(p), "exp_avg_sq": p**2})
        for i, p in enumerate(model.parameters())
    ]
    path = tmp_path / "checkpoint.safetensors"
    with Allocated() as allocated:
        state = TrainingState(step=7, window={"kd": 0.5})
        store(path, state, weights.items(), moments, tensors=len(weights))
    assert allocated.bytes < 20_000 < sum(t.nbytes for t in weights.values()) / 10
    other = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.Linear(300, 200))
    assert restore(path, {"student": other}) == state
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters()))  # noqa: B905
    for (index, own), (number, expected) in zip(moments_of(path), moments, strict=True):
        assert index == number
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[name], expected[name]) for name in own)
    assert tensors_of(path, "student").keys() == model.state_dict().keys()


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    store(path, TrainingState(step=1), (), tensors=0)

    def broken() -> Any:
        yield 0, {"step": torch.tensor(1.0)}
        raise RuntimeError("a process has gone")

    with pytest.raises(RuntimeError, match="has gone"):
        store(path, TrainingState(step=2), (), broken(), tensors=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert restore(path, {}) == TrainingState(step=1)


def test_a_full_disk_is_said_and_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    store(path, TrainingState(step=1), (), tensors=0)

    def full() -> Any:
        yield 0, {"step": torch.tensor(1.0)}
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="the disk is full") as caught:
        store(path, TrainingState(step=2), (), full(), tensors=1)
    assert caught.value.exit_code == 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert restore(path, {}) == TrainingState(step=1)
