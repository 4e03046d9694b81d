"""An exported decoder is opened by ONNX Runtime GenAI, which goes on with the same tokens."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from toolchain.__main__ import main

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime_genai") is None, reason="needs onnxruntime-genai"
    ),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_greedy_tokens_are_those_of_the_model(precision: str, shared: Path, tmp_path: Path) -> None:
    import onnxruntime_genai as genai

    source, folder = shared / "models" / "stories260k", tmp_path / "fp32"
    assert main(["export", str(source), "-o", str(folder)]) == 0
    if precision != "fp32":
        folder = tmp_path / precision
        words = ["quantize", str(tmp_path / "fp32"), "--precision", precision]
        assert main([*words, "-o", str(folder)]) == 0
    golden = json.loads((source / "golden.json").read_text())
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(golden["token_ids"]))
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(golden["prompt_ids"], dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)]
    # Rounding to int8 may choose another word sooner or later.
    same = len(found) if precision == "fp32" else 8
    assert found[:same] == golden["token_ids"][:same]
    assert len(found) == len(golden["token_ids"])
