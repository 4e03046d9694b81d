"""The sample program of decoders: prompts, tokens one by one, golden continuations, self-test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import PreTrainedTokenizerFast

from tests.unit.bundle.conftest import TEXTS, VOCABULARY
from toolchain.artifact import file_sha256
from toolchain.bundle.assets.generate import Generator
from toolchain.bundle.bundle import build
from toolchain.errors import UsageError

WIDTH = 16
CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")


def save_decoder(path: Path) -> Path:
    """Save a decoder that remembers every token: the sum of all so far says what follows."""
    random = np.random.default_rng(3)
    held = {
        "words": random.normal(size=(len(VOCABULARY), WIDTH)).astype(np.float32),
        "matrix": (random.normal(size=(WIDTH, len(VOCABULARY))) * 2).astype(np.float32),
        "heads": np.array([1], np.int64),
        "two": np.array(2, np.int64),
        "zero": np.array([0], np.int64),
        "axis": np.array([2], np.int64),
        "far": np.array([2**40], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["new_BNK"]),
        helper.make_node("Unsqueeze", ["new_BNK", "heads"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
        helper.make_node("CumSum", ["present.0.key", "two"], ["sums"]),
        helper.make_node("Shape", ["past_key_values.0.key"], ["before"], start=2, end=3),
        helper.make_node("Slice", ["sums", "before", "far", "axis"], ["last"]),
        helper.make_node("Squeeze", ["last", "heads"], ["last_BNK"]),
        helper.make_node("MatMul", ["last_BNK", "matrix"], ["logits"]),
    ]
    ids = [("input_ids", "N"), ("attention_mask", "T"), ("position_ids", "N")]
    names = [
        f"{kind}.0.{part}" for kind in ("past_key_values", "present") for part in ("key", "value")
    ]
    shapes = {n: ["B", 1, "P" if n.startswith("past") else "T", WIDTH] for n in names}
    floats = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in names}
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "N", len(VOCABULARY)])
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            *(helper.make_tensor_value_info(n, TensorProto.INT64, ["B", a]) for n, a in ids),
            *(floats[n] for n in names[:2]),
        ],
        [logits, *(floats[n] for n in names[2:])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(workshop: Any) -> Path:
    folder = workshop.root / "decoder-tokenizer"
    PreTrainedTokenizerFast(
        tokenizer_file=str(workshop.tokenizer / "tokenizer.json"), unk_token="[UNK]",
        pad_token="[PAD]", bos_token="[CLS]", eos_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    return Path(folder)


@pytest.fixture(scope="module")
def bundles(workshop: Any, tokenizer: Path) -> dict[str, Path]:
    model = save_decoder(workshop.root / "decoder.onnx")
    int8 = workshop.root / "decoder-int8.onnx"
    quantize_dynamic(model, int8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    asked = {"labels": (), "task": "causal_lm", "golden_texts": TEXTS, "tokenizer": tokenizer}
    return {
        "fp32": workshop.make("decoder-fp32", model=model, **asked),
        "int8": workshop.make("decoder-int8", model=int8, precision="int8", **asked),
    }


def wanted(bundle: Path, ids: list[int], count: int) -> list[int]:
    """What follows, computed here without any cache."""
    held = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(bundle / "model.onnx").graph.initializer
    }
    found = list(ids)
    for _ in range(count):
        best = int((held["words"][found].sum(0) @ held["matrix"]).argmax())
        if best in (CLS, SEP):
            break
        found.append(best)
    return found[len(ids) :]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_golden_rows_hold_what_follows(
    bundles: dict[str, Path], precision: str, copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[precision])
    report = bundle.prove()
    assert report["problems"] == []
    rows = bundle.golden()
    assert report["continued"] == sum(bool(row["continuation"]) for row in rows) > 20
    assert rows[0]["input_ids"][0] == CLS
    assert max(len(row["input_ids"]) for row in rows) == 24
    if precision == "fp32":
        for row in rows[:10]:
            expected = wanted(bundle.folder, row["input_ids"], len(row["continuation"]))
            assert row["continuation"] == expected


def test_the_program_goes_on_as_it_would_without_a_cache(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    generator = Generator(bundle.folder)
    prompt = "the film is"
    expected = wanted(bundle.folder, generator.tokens(prompt), 9)
    ran = bundle.run("generate.py", "--json", "--tokens", "9", prompt)
    answer = json.loads(ran.stdout)
    assert answer["tokens"] == expected
    assert list(generator.generate(prompt, 9)) == expected
    plain = bundle.run("generate.py", "--tokens", "9", stdin=f"{prompt}\n".encode()).stdout
    assert plain.decode() == f"{prompt}{answer['text']}\n\n"


def test_it_ends_where_the_models_length_ends(bundles: dict[str, Path]) -> None:
    generator = Generator(bundles["fp32"])
    long = "good " * 40
    assert len(generator.tokens(long)) == 24
    assert generator.tokens(long)[0] == CLS
    assert list(generator.generate(long, 5)) == []
    assert (
        len(generator.tokens("good " * 20)) + len(list(generator.generate("good " * 20, 9))) <= 24
    )


def test_another_continuation_is_found(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    rows = bundle.golden()
    place = next(i for i, row in enumerate(rows) if row["continuation"])
    rows[place]["continuation"][0] += 1
    bundle.write_golden(rows)
    bundle.reseal()
    (problem,) = bundle.examine()["problems"]
    assert problem.startswith("1 of ")
    assert f"texts are gone on with otherwise, first row {place + 1}, token" in problem


def test_a_decoder_without_a_cache_is_refused(
    bundles: dict[str, Path], workshop: Any, tokenizer: Path, tmp_path: Path
) -> None:
    model = onnx.load(bundles["fp32"] / "model.onnx")
    for value in model.graph.input:
        value.name = value.name.replace("past_key_values", "memory")
    path = tmp_path / "no-cache.onnx"
    onnx.save(model, path)
    asked = {"labels": (), "task": "causal_lm", "golden_texts": TEXTS, "tokenizer": tokenizer}
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match=r"expected int64 inputs of .*past_key_values\.\*"):
        build(
            tmp_path / "out",
            **workshop.arguments(model=path, model_digest=file_sha256(path), **asked),
        )


def test_the_readme_says_how_to_ask_and_runs(
    bundles: dict[str, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles["fp32"])
    readme = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Writer for ")
    assert f"A text begins with id {CLS}. Stop at {CLS} or {SEP}." in readme
    program = readme.split("```python\n")[1].split("```")[0]
    path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
    own = bundle.folder / "own.py"
    own.write_text(path + program.replace('Path(".")', "Path(__file__).parent"))
    ran = bundle.run("own.py")
    assert ran.returncode == 0, ran.stderr
