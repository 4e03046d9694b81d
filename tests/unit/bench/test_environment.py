import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from toolchain.bench.environment import environment, packages

KEYS = ["cpu", "flags", "cores", "threads", "load", "ram_bytes", "os", "python", "packages", "git"]


def test_the_environment_has_the_keys_of_the_report():
    assert list(environment()) == KEYS


def test_the_environment_is_plain_json():
    found = environment()
    assert json.loads(json.dumps(found)) == found


def test_the_environment_is_of_this_machine():
    found = environment()
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert 1 <= found["threads"] <= (os.cpu_count() or 1)
    assert found["ram_bytes"] > 2**28
    assert found["load"] >= 0
    assert found["python"] == platform.python_version()
    assert platform.machine() in found["os"]


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="flags come from /proc/cpuinfo")
def test_flags_are_those_of_this_processor_that_kernels_choose_by():
    found = environment()["flags"]
    everything = Path("/proc/cpuinfo").read_text().split()
    assert found == sorted(set(found))
    assert set(found) <= set(everything)
    assert ("avx2" in found) == ("avx2" in everything)
    assert ("asimddp" in found) == ("asimddp" in everything)
    assert "fpu" not in found


def test_versions_are_those_installed():
    found = packages()
    for name in ("torch", "transformers", "onnx", "onnxruntime", "accelerate"):
        assert found[name] == version(name)
    assert found["toolchain"]


def test_the_environment_names_no_machine_no_user_and_no_folder():
    text = json.dumps(environment())
    forbidden = [getpass.getuser(), str(Path.home()), str(Path.cwd())]
    if len(socket.gethostname()) > 3:
        forbidden.append(socket.gethostname())
    words = text.replace('"', " ").split()
    assert not [secret for secret in forbidden if secret in words or f"{secret}/" in text]


def test_reading_the_environment_imports_no_framework():
    code = (
        "import sys; from toolchain.bench.environment import environment; environment();"
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def git(*arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_working_folder_and_says_when_files_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("kept.txt").write_text("one")
    git("add", "kept.txt")
    git("commit", "-q", "-m", "one")
    clean = environment()["git"]
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    Path("output.txt").write_text("an untracked result changes nothing")
    assert environment()["git"] == clean
    Path("kept.txt").write_text("two")
    assert environment()["git"] == {"commit": clean["commit"], "dirty": True}


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["git"] is None
