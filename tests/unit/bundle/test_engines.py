"""Scripts of bundles are rewritten for their runtime, whole and without a trace of another."""

import ast
from pathlib import Path

import pytest

from toolchain.bundle import assets
from toolchain.bundle.engines import ENGINES, engine_of
from toolchain.bundle.forms import FORMS
from toolchain.errors import UsageError

SCRIPTS = sorted({f.script for f in FORMS.values() if not f.prompt} | {"selftest.py"})


def source(script: str) -> str:
    return (Path(assets.__path__[0]) / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"onnx"}))
def test_a_script_names_its_own_runtime_alone(script: str, name: str) -> None:
    engine = ENGINES[name]
    text = engine.adapted(source(script))
    # Files of the format ort are run by onnxruntime, too.
    assert "onnx" not in text.replace("onnxruntime", "" if name == "ort" else "onnxruntime")
    assert engine.model in text
    tree = ast.parse(text)
    imported = {
        a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    }
    assert (engine.package in imported) == (script != "selftest.py")
    assert "toolchain" not in {
        str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
    }
    opener = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "_open_model"]
    assert len(opener) == (script != "selftest.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_for_onnx_are_as_they_are(script: str) -> None:
    assert ENGINES["onnx"].adapted(source(script)) == source(script)


def test_files_beside_a_model_go_by_its_name() -> None:
    files = ENGINES["openvino"].files(Path("a/openvino_model_bf16.xml"))
    assert files == {
        Path("a/openvino_model_bf16.xml"): "model.xml",
        Path("a/openvino_model_bf16.bin"): "model.bin",
    }


def test_a_format_without_an_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="no bundle can be made of torch"):
        engine_of("torch")
