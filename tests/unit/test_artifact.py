"""Artifacts are whole or absent; damage and escape are found on reading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.artifact import MANIFEST, Artifact, digest_of, drafting, write_atomic
from toolchain.errors import IntegrityError, ResourceError, UsageError


def make(root: Path, content: str = "weights", key: str = "k") -> Artifact:
    with drafting(root, {"step": "test", "key": key}) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "model.bin").write_text(content)
        draft.format = "torch"
        draft.facts["rows"] = 3
    return Artifact.open(root)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a")
    assert artifact.format == "torch"
    assert artifact.facts == {"rows": 3}
    assert list(artifact.files) == ["deep/model.bin"]
    assert artifact.path("deep/model.bin").read_text() == "weights"


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", key="1"), make(tmp_path / "b", key="2")
    assert first.digest == second.digest
    assert first.digest != make(tmp_path / "c", content="other").digest


def test_an_error_while_writing_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    before = make(tmp_path / "a")

    def fail() -> None:
        with drafting(tmp_path / "a", {"key": "new"}) as draft:
            (draft.folder / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Artifact.open(tmp_path / "a").digest == before.digest
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_kill_while_writing_is_never_taken_for_a_result(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from toolchain.artifact import drafting\n"
        f"with drafting(Path({str(tmp_path / 'a')!r}), {{'key': 'k'}}) as draft:\n"
        "    (draft.folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert Artifact.find(tmp_path / "a", "k") is None
    assert make(tmp_path / "a").key == "k"


@pytest.mark.parametrize("damage", ["flip", "remove", "truncate"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / "deep" / "model.bin"
    if damage == "flip":
        path.write_text("weighty")
    elif damage == "truncate":
        path.write_text("")
    else:
        path.unlink()
    with pytest.raises(IntegrityError) as found:
        Artifact.open(tmp_path / "a")
    assert "model.bin" in str(found.value)
    assert Artifact.find(tmp_path / "a", "k") is None


def test_another_key_is_not_the_same_step(tmp_path: Path) -> None:
    make(tmp_path / "a", key="k")
    assert Artifact.find(tmp_path / "a", "k") is not None
    assert Artifact.find(tmp_path / "a", "other") is None


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="outside its folder"):
        Artifact.open(tmp_path / "a", check=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}', '{"format": "x"}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UsageError, match="not a manifest"):
        Artifact.open(tmp_path)


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        with pytest.raises(ResourceError, match="the disk is full"):
            write_atomic(small / "big", b"x" * 200_000)
        assert list(small.iterdir()) == []
        with pytest.raises(ResourceError, match="the disk is full"):
            make(small / "a", content="y" * 200_000)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2, None]}) == digest_of({"b": [2, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})
