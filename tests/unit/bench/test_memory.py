import subprocess
import sys

import numpy as np
import pytest

from toolchain.bench import memory

SAY_PEAK = "from toolchain.bench.memory import peak_bytes; print(peak_bytes())"


def child_says(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_child_does_not_inherit_the_peak_of_a_large_parent():
    held = np.ones(500 * 2**20, dtype=np.uint8)
    assert memory.peak_bytes() > 500 * 2**20
    (child,) = child_says(SAY_PEAK)
    assert child < 100 * 2**20
    assert held.all()


def test_a_peak_stays_when_its_memory_is_given_back():
    before, after = child_says(
        f"{SAY_PEAK}; import numpy; numpy.ones(50 * 2**20, dtype='uint8'); {SAY_PEAK}"
    )
    assert after >= before + 30 * 2**20


def test_a_peak_is_in_bytes():
    # An interpreter with NumPy, on any platform.
    assert 5 * 2**20 < memory.peak_bytes() < 64 * 2**30


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_where_there_is_no_proc_the_peak_comes_in_bytes_too(monkeypatch, tmp_path):
    known = memory.peak_bytes()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    assert known / 2 < memory.peak_bytes() < 64 * 2**30
    (tmp_path / "without").write_text("Name:\tpython\n")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "without")
    assert known / 2 < memory.peak_bytes() < 64 * 2**30
