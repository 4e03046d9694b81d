"""Ranks as processes of this machine, talking through gloo; teachers without dropout."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.conftest import make_teacher

STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without dropout: its random numbers are drawn per rank.
    return make_teacher(tmp_path_factory.mktemp("steady"), head=True, **STEADY)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("second"), head=True, seed=3, **STEADY)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Ranks:
    """Starts the same command once, or once per rank."""

    environment: dict[str, str]

    def start(self, words: list[str], count: int) -> list[subprocess.Popen[str]]:
        shared = {**os.environ, **self.environment}
        if count > 1:
            shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        own = [{"RANK": str(r), "LOCAL_RANK": str(r)} if count > 1 else {} for r in range(count)]
        return [
            subprocess.Popen(
                [sys.executable, *words],
                env={**shared, **mine},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for mine in own
        ]

    def run(self, words: list[str], count: int) -> list[str]:
        """Return what each printed; all must end well."""
        processes = self.start(words, count)
        said = [process.communicate(timeout=570) for process in processes]
        # Which rank failed first, only their own words say.
        errors = "\n".join(error[-3000:] for _, error in said)
        assert all(process.returncode == 0 for process in processes), errors
        return [out for out, _ in said]

    def train(self, cases: list[dict[str, Any]], count: int, folder: Path) -> None:
        """Run trainings, one after another in the same processes."""
        file = folder / f"cases-{count}.json"
        file.write_text(json.dumps(cases))
        quiet = ["-W", "error", "-W", "ignore::FutureWarning", "-W", "ignore::DeprecationWarning"]
        self.run([*quiet, "-m", "tests.distributed.one_rank", str(file)], count)


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    # A machine's GPUs have tests of their own.
    own = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return Ranks({"OMP_NUM_THREADS": "1", **own})


@pytest.fixture(scope="session")
def sharding(ranks: Ranks, request: pytest.FixtureRequest) -> Ranks:
    """Ranks that find what DeepSpeed compiles already there."""
    pytest.importorskip("deepspeed", reason="the extra [deepspeed] is not installed")
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler: DeepSpeed compiles its communication on a CPU")
    assert request.config.cache is not None
    built = request.config.cache.mkdir("torch_extensions")
    able = Ranks({**ranks.environment, "TORCH_EXTENSIONS_DIR": str(built)})
    session = built / f".{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    # Of the processes that share the tests, the first compiles and the others wait.
    with (built / ".turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not session.exists():
            for lock in built.rglob("lock"):
                # A session that was killed while it compiled has left it.
                lock.unlink()
            code = "import torch; from toolchain.scale.ready import import_deepspeed as use; "
            able.run(["-c", code + "use(torch.device('cpu'))"], 1)
            session.touch()
    return able


def check_equal(
    one: Path, two: Path, start: Path, unseen: str = "key.bias", within: float = 2e-5
) -> None:
    """Compare two trained students; they must have moved from where they started.

    `unseen` ends the name of a parameter that the loss does not depend on, but for rounding.
    """
    first, other, before = load_file(one), load_file(two), load_file(start)
    moved = False
    for name, tensor in first.items():
        # A softmax does not see a shift, so the gradient of a key bias is zero but for rounding,
        # and AdamW makes full steps of rounding.
        if name.endswith(("key.bias", unseen)):
            continue
        # AdamW divides by tiny moments, so the order of a sum shows in the last digits.
        assert (other[name] - tensor).abs().max() <= within, f"{two.name}: {name}"
        same_shape = name in before and before[name].shape == tensor.shape
        moved |= not same_shape or not tensor.equal(before[name])
    assert moved


def losses(student: Path) -> list[float]:
    return [
        point["loss"] for point in json.loads(student.with_suffix(".json").read_text())["points"]
    ]
