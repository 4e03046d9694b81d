"""The sample program for questions: windows, places in characters, no answer; its self-test."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.bundle.conftest import VOCABULARY
from toolchain.data.windows import best_of, replies_of, windows
from toolchain.errors import UsageError
from toolchain.models.loading import load_tokenizer

ROWS = [
    ("is it good ?", "the film is not bad and it is great"),
    ("not good", "the caf\u00e9 is \u4e2d\u6587 good , the film is bad"),
    ("a film ?", " ".join(["the film and the cafe is great"] * 12)),
]
ENDS = ("start_logits", "end_logits")


def save_ends_model(path: Path, *, outputs: tuple[str, str] = ENDS) -> Path:
    """Write a model whose figures at a token are those of its word, and of the mean of all."""
    generator = np.random.default_rng(1)
    words = generator.normal(size=(len(VOCABULARY), 16)).astype(np.float32)
    matrix = generator.normal(size=(16, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["states", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"]),
        helper.make_node("ReduceSum", ["mask3", "one"], ["count"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Add", ["states", "mean"], ["both"]),
        helper.make_node("MatMul", ["both", "matrix"], ["ends"]),
        helper.make_node("Split", ["ends"], ["begin3", "end3"], axis=-1, num_outputs=2),
        helper.make_node("Squeeze", ["begin3", "last"], [outputs[0]]),
        helper.make_node("Squeeze", ["end3", "last"], [outputs[1]]),
    ]
    shape = ["batch", "sequence"]
    names = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
        [
            numpy_helper.from_array(words, "words"),
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
        ],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def model(workshop: Any) -> Path:
    return save_ends_model(workshop.root / "reader.onnx")


ASKED = {"labels": (), "task": "qa", "kind": "pair", "golden_texts": ROWS, "max_tokens": 32}


@pytest.fixture(scope="module")
def bundles(workshop: Any, model: Path) -> dict[bool, Path]:
    """By whether questions may have no answer."""
    return {
        none: workshop.make(f"reader-{none}", model=model, unanswered=none, **ASKED)
        for none in (False, True)
    }


def test_golden_rows_hold_the_highest_figures_of_both_ends(
    bundles: dict[bool, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[True])
    assert bundle.prove()["problems"] == []
    rows = bundle.golden()
    assert len(rows) > 40
    for row in rows:
        assert row["positions"] == [0, 1]
        assert [len(some) for some in row["logits"]] == [min(16, len(row["input_ids"]))] * 2
        assert row["tokens"] == [some[0] for some in row["outcomes"]]
        assert len(row["input_ids"]) <= 32
    rows[0]["logits"][1][0] += 1
    bundle.write_golden(rows)
    bundle.reseal()
    assert "differs by more than" in " ".join(bundle.examine()["problems"])


def expected(model: Path, tokenizer: Path, question: str, text: str, none: bool) -> str:
    """What evaluation answers."""
    made = windows(
        load_tokenizer(tokenizer), [question], [text], [()], max_tokens=32, unanswered=none
    )
    session = onnxruntime.InferenceSession(model)
    found = []
    for feature, offsets in zip(made.features, made.asked.offsets, strict=True):
        feed = {name: feature[name][None] for name in ("input_ids", "attention_mask")}
        found.append(best_of(np.stack(session.run(list(ENDS), feed), -1)[0], offsets))
    return replies_of(replace(made.asked, unanswered=none), found)[0]


@pytest.mark.parametrize("none", [False, True])
def test_the_program_answers_as_evaluation_does(
    none: bool, bundles: dict[bool, Path], model: Path, workshop: Any,
    copy_of: Callable[[Path], Any],
) -> None:  # fmt: skip
    bundle = copy_of(bundles[none])
    for question, text in ROWS:
        wanted = expected(model, workshop.tokenizer, question, text, none)
        told = json.loads(bundle.run("answer.py", "--json", question, text).stdout)
        assert told["question"] == question
        assert told["answer"] == wanted
        if wanted:
            assert text[told["start"] : told["end"]] == wanted
        else:
            assert (told["start"], told["end"], told["score"] < 0) == (None, None, True)
    lines = "".join(f"{q}\t{t}\r\n" for q, t in ROWS).encode()
    plain = bundle.run("answer.py", stdin=lines).stdout.decode().splitlines()
    fields = [line.split("\t") for line in plain]
    assert [f[0] for f in fields] == [
        expected(model, workshop.tokenizer, *row, none) for row in ROWS
    ]
    assert all(len(f) == 4 for f in fields)


def test_a_text_of_no_token_has_no_answer(
    bundles: dict[bool, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[False])
    assert bundle.run("answer.py", "is it ?", " ").stdout == b"\t0.0000\t-\t-\n"
    # Nor is a question missing that is longer than the model reads.
    long = bundle.run("answer.py", "--json", "film " * 90, "the film is great")
    assert json.loads(long.stdout)["answer"]


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("one",), b"", b"expected a question and its text, found 1 arguments"),
        ((), b"a\tb\nalone\n", b"line 2: expected a question and a text with a TAB"),
    ],
)
def test_a_question_without_its_text_is_wrong_usage(
    words: tuple[str, ...], stdin: bytes, said: bytes, bundles: dict[bool, Path],
    copy_of: Callable[[Path], Any],
) -> None:  # fmt: skip
    ran = copy_of(bundles[False]).run("answer.py", *words, stdin=stdin)
    assert (ran.returncode, said in ran.stderr) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "tag"}, b"the task is 'tag', expected 'qa'"),
        ({"unanswered": None, "max_tokens": "many"}, b"missing or malformed"),
        ({"output": "start_logits"}, b"cannot run"),
        ({"inputs": ["input_ids", "position_ids"]}, b"unknown inputs position_ids"),
    ],
)
def test_a_damaged_description_is_named(
    change: dict[str, Any], said: bytes, bundles: dict[bool, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[False])
    path = bundle.folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    ran = bundle.run("answer.py", "a film ?", "the film")
    assert (ran.returncode, said in ran.stderr) == (4, True), ran.stderr


def test_a_model_that_gives_no_ends_is_refused(workshop: Any) -> None:
    other = save_ends_model(workshop.root / "other.onnx", outputs=("begin", "end_logits"))
    with pytest.raises(UsageError, match="expected start_logits and end_logits"):
        workshop.make("other", model=other, **ASKED)


def test_the_readme_says_how_to_ask_and_runs(
    bundles: dict[bool, Path], copy_of: Callable[[Path], Any]
) -> None:
    bundle = copy_of(bundles[True])
    readme = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "or says that it holds no answer" in readme
    assert "below 0 there is none" in readme
    assert "longer text is read in windows" in readme
    assert "below 0" not in (bundles[False] / "README.md").read_text(encoding="utf-8")
    program = readme.split("```python\n")[1].split("```")[0]
    path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
    own = bundle.folder / "own.py"
    own.write_text(path + program.replace('Path(".")', "Path(__file__).parent"))
    ran = bundle.run("own.py")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"Answer(text=")
