"""What the house promises of itself: lazy imports, the public list, frozen flags, versions."""

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import toolchain

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "accelerate", "numpy")


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "methods",
        "methods show kd",
        "targets",
        "compress --help",
        "plan --help",
        "study --help",
    ],
)
def test_listing_and_help_import_nothing_heavy(words: str) -> None:
    # Help does not even need the methods.
    heavy = (*HEAVY, "toolchain.distill") if words == "--help" else HEAVY
    code = (
        f"import sys; from toolchain.__main__ import main; assert main({words.split()!r}) == 0; "
        f"sys.stderr.write(','.join(m for m in {heavy!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout


def test_importing_toolchain_imports_nothing_heavy_and_every_public_name_resolves() -> None:
    code = f"import sys, toolchain; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert toolchain.__all__ == sorted(toolchain.__all__)
    for name in toolchain.__all__:
        assert getattr(toolchain, name) is not None
    with pytest.raises(AttributeError):
        toolchain.nonsense  # noqa: B018


def modules() -> list[str]:
    found = pkgutil.walk_packages(toolchain.__path__, "toolchain.")
    return [m.name for m in found if not m.name.endswith("__main__") and ".assets" not in m.name]


@pytest.mark.parametrize("name", modules())
def test_every_module_lists_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        assert module.__all__
        for exported in module.__all__:
            assert hasattr(module, exported)


def flags(command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    )
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)))


def test_the_flags_of_compress_are_frozen() -> None:
    """A knob belongs in the recipe; a new flag needs a reason in DECISIONS.md."""
    assert flags("compress") == [
        "--baseline", "--config", "--data", "--debug", "--dry-run", "--ffn", "--heads", "--help",
        "--hidden", "--json", "--latency", "--layers", "--max-steps", "--method", "--no-baseline",
        "--no-resume", "--output", "--precision", "--resume", "--seed", "--student", "--target",
        "--teacher", "--threads", "--verbose",
    ]  # fmt: skip


def test_the_flags_of_plan_are_frozen() -> None:
    assert flags("plan") == [
        "--batch", "--config", "--debug", "--ffn", "--hardware", "--heads", "--help", "--hidden",
        "--json", "--layers", "--method", "--precision", "--student", "--student-placement",
        "--teacher", "--teacher-placement", "--tokens",
    ]  # fmt: skip


def test_the_flags_of_study_are_frozen() -> None:
    assert flags("study") == [
        "--axis", "--budget", "--config", "--data", "--debug", "--dry-run", "--ffn", "--heads",
        "--help", "--hidden", "--json", "--layers", "--max-steps", "--output", "--seed", "--seeds",
        "--teacher", "--threads", "--verbose",
    ]  # fmt: skip


def test_the_changelog_begins_with_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[?(\d+\.\d+\.\d+)", text, re.M)
    assert first is not None
    assert first[1] == toolchain.__version__


def test_sources_are_ascii() -> None:
    for path in (ROOT / "toolchain").rglob("*.py"):
        assert path.read_bytes().isascii(), path


def test_the_constraints_pin_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower()
        assert re.search(rf"^{re.escape(name)}==", pins, re.M), name
    assert "torch==2.13.0\n" in pins


def test_the_wheel_holds_the_package_and_the_targets(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index to fetch the build backend from")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    import zipfile

    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    tracked = subprocess.run(
        ["git", "ls-files", "toolchain", "targets"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {re.sub(r"^targets/", "toolchain/_data/targets/", name) for name in tracked}
    assert names == expected


def test_the_tables_of_the_user_guide_are_those_of_the_code() -> None:
    from toolchain.distill.catalogue import filled_in

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == filled_in(page), "run make docs-table"
