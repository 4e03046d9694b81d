"""The sample program of masked language models, its golden gaps, and its self-test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.unit.bundle.conftest import TEXTS, VOCABULARY
from tests.unit.bundle.test_tag import save_token_model

MASK = VOCABULARY.index("[MASK]")


@pytest.fixture(scope="module")
def bundles(workshop: Any) -> dict[str, Path]:
    model = save_token_model(workshop.root / "filler.onnx", outcomes=len(VOCABULARY))
    int8 = workshop.root / "filler-int8.onnx"
    quantize_dynamic(model, int8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    asked = {"labels": (), "task": "mask_lm", "golden_texts": TEXTS}
    return {
        "fp32": workshop.make("filler-fp32", model=model, **asked),
        "int8": workshop.make("filler-int8", model=int8, precision="int8", **asked),
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_golden_rows_hold_the_highest_figures_at_the_gaps(
    bundles: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[precision])
    assert bundle.prove()["problems"] == []
    rows = bundle.golden()
    assert [row["text"] for row in rows[:2]] == ["the film [MASK] good", "a [MASK] film"]
    for row in rows[:4]:
        (place,) = row["positions"]
        assert row["input_ids"][place] == MASK
        (logits,), (outcomes,) = row["logits"], row["outcomes"]
        assert len(logits) == len(outcomes) == 16
        assert logits == sorted(logits, reverse=True)
        assert row["tokens"] == [outcomes[0]]
    # What has no gap is recorded all along.
    assert max(len(row["positions"]) for row in rows) == 16


def test_gaps_are_filled_with_the_likeliest_tokens(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    row = bundle.golden()[0]
    ran = bundle.run("fill_mask.py", "--json", "--top", "3", row["text"], "no gap")
    answer, none = (json.loads(line) for line in ran.stdout.splitlines())
    (gap,) = answer["gaps"]
    assert [filling["id"] for filling in gap] == row["outcomes"][0][:3]
    assert [f["token"] for f in gap] == [VOCABULARY[f["id"]] for f in gap]
    proto = onnx.load(bundle.folder / "model.onnx")
    words, matrix, bias = (
        onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))
        for name in ("words", "matrix", "bias")
    )
    powers = np.exp(words[MASK] @ matrix + bias)
    assert gap[0]["probability"] == pytest.approx(powers.max() / powers.sum(), abs=1e-5)
    assert none == {"text": "no gap", "gaps": []}
    lines = bundle.run("fill_mask.py", stdin=b"a [MASK] film [MASK]\n").stdout.decode().split("\n")
    assert [len(line.split("\t")) for line in lines] == [10, 10, 1, 1]


def test_another_likeliest_token_is_found(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["int8"])
    rows = bundle.golden()
    rows[0]["logits"][0].reverse()
    rows[0]["tokens"] = [rows[0]["outcomes"][0][-1]]
    bundle.write_golden(rows)
    bundle.reseal()
    problems = bundle.examine()["problems"]
    assert any("golden tokens are decided otherwise: row 1, token" in p for p in problems)


def test_the_readme_says_how_to_ask_and_runs(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    readme = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Filler of gaps for ")
    assert 'fill_mask.py "a text with a [MASK] in it"' in readme
    program = readme.split("```python\n")[1].split("```")[0]
    path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
    own = bundle.folder / "own.py"
    own.write_text(path + program.replace('Path(".")', "Path(__file__).parent"))
    ran = bundle.run("own.py")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"[[Filling(token=")
