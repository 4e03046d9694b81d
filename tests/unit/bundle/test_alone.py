"""Scripts of bundles stand alone, so what they share is the same text in each."""

import ast
from pathlib import Path

import pytest

from toolchain.bundle import assets
from toolchain.bundle.forms import FORMS

SHARED = ("_read_json", "_open_tokenizer", "_open_model", "_first_line")


def functions(script: str) -> dict[str, str]:
    source = (Path(assets.__path__[0]) / script).read_text(encoding="utf-8")
    found = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return {node.name: ast.get_source_segment(source, node) or "" for node in found}


@pytest.mark.parametrize("script", sorted({form.script for form in FORMS.values()}))
def test_what_scripts_share_is_the_same_text(script: str) -> None:
    ours, first = functions(script), functions("classify.py")
    for name in SHARED:
        assert ours[name] == first[name]
