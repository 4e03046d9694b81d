"""What hardware may be called, and one clear sentence for everything else."""

import pytest

from toolchain import hardware
from toolchain.errors import UsageError
from toolchain.scale.hardware import Hardware, parse_hardware, this_machine


@pytest.mark.parametrize(
    ("text", "ranks", "size", "host", "disk"),
    [
        ("8x40GB", 8, 40 * 10**9, None, None),
        ("80GB", 1, 80 * 10**9, None, None),
        ("2 x 24GiB", 2, 24 << 30, None, None),
        ("1x1.5GB", 1, 1_500_000_000, None, None),
        ("8x40GB,host=512GB,disk=2TB", 8, 40 * 10**9, 512 * 10**9, 2 * 10**12),
    ],
)
def test_gpus(text: str, ranks: int, size: int, host: int | None, disk: int | None) -> None:
    assert parse_hardware(text) == Hardware(
        ranks=ranks, rank_bytes=size, gpu=True, host_bytes=host, disk_bytes=disk
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "8x40", "8*40GB", "0x40GB", "-1x40GB", "8x40gb", "8x0GB", "x40GB", "8xA100", "8x40GB,",
        "8x40GB,host", "8x40GB,host=1", "8x40GB,ram=1GB", "8x40GB,host=1GB,host=2GB", "1e3x40GB",
        "8x40GB host=1GB", "8xhosts",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read") as refused:
        parse_hardware(text)
    assert "8x40GB" in refused.value.hint


def test_processes_share_the_memory_of_their_machine() -> None:
    assert parse_hardware("2xhost,host=16GB") == Hardware(ranks=2, rank_bytes=8 * 10**9, gpu=False)
    assert parse_hardware("host").rank_bytes == hardware.memory_bytes()


def test_left_out_it_is_this_machine_with_the_ranks_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parse_hardware(None) == this_machine()
    assert this_machine().ranks == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_machine().ranks == 4


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_processes_of_other_machines_take_no_memory_of_this_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for own in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(own, raising=False)
    monkeypatch.setattr("toolchain.hardware.gpu_bytes", lambda: None)
    monkeypatch.setattr("toolchain.hardware.memory_bytes", lambda: 16 << 30)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_machine().rank_bytes == 4 << 30
    monkeypatch.setenv(name, "2")
    assert this_machine().rank_bytes == 8 << 30
    monkeypatch.setattr("toolchain.hardware.gpu_bytes", lambda: 40 << 30)
    assert this_machine().host_bytes == 32 << 30


def test_it_is_printed_as_it_is_written() -> None:
    assert [str(parse_hardware(t)) for t in ("8x40GB", "40GB", "2xhost", "host")] == [
        "8x40GB", "1x40GB", "2xhost", "host",
    ]  # fmt: skip
