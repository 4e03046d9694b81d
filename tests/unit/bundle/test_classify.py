"""The sample program: what goes in, what comes out, and that it needs no training tools."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from toolchain.bundle import assets
from toolchain.bundle.assets.classify import BundleError, Classifier

SCRIPTS = ["classify.py", "fill_mask.py", "generate.py", "selftest.py", "tag.py"]
ALLOWED = {"numpy", "onnxruntime", "tokenizers", "__future__"}
FORBIDDEN = {"torch", "transformers", "toolchain"}


def source(script: str) -> str:
    return (Path(assets.__path__[0]) / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_import_only_what_the_requirements_name(script: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source(script))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) <= ALLOWED
    assert not imported & FORBIDDEN


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_of_python_3_9(script: str) -> None:
    ast.parse(source(script), feature_version=(3, 9))


@pytest.mark.parametrize("script", ["classify.py", "selftest.py"])
def test_the_scripts_are_copied_as_they_are(fp32, script: str) -> None:
    assert (fp32.folder / script).read_text(encoding="utf-8") == source(script)


@pytest.mark.parametrize(
    ("script", "argument"), [("classify.py", "good"), ("selftest.py", "--json")]
)
def test_the_scripts_run_without_training_tools(fp32, script: str, argument: str) -> None:
    path = str(fp32.folder / script)
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{path!r}, {argument!r}]\n"
        "try:\n"
        f"    runpy.run_path({path!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        f"loaded = {FORBIDDEN!r} & set(sys.modules)\n"
        "assert 'onnxruntime' in sys.modules and not loaded, loaded\n"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_arguments_are_answered_in_order_as_lines(fp32) -> None:
    ran = fp32.run("classify.py", "the film is good", "a bad film")
    assert ran.returncode == 0
    labels = [line.split("\t")[0] for line in ran.stdout.decode().splitlines()]
    assert labels == [row["label"] for row in fp32.golden()[:2]]
    assert all(0.5 <= float(line.split(b"\t")[1]) <= 1 for line in ran.stdout.splitlines())


def test_every_line_of_stdin_has_its_answer_even_an_empty_or_broken_one(fp32) -> None:
    ran = fp32.run("classify.py", "--json", stdin=b"the film is good\r\n\n\xff\xfe\ncaf\xc3\xa9")
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [a["text"] for a in answers] == ["the film is good", "", "\ufffd\ufffd", "caf\u00e9"]
    for answer in answers:
        assert set(answer) == {"text", "label", "probability", "probabilities"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["probability"] == max(answer["probabilities"].values())
        assert answer["probabilities"][answer["label"]] == answer["probability"]


def test_probabilities_are_the_softmax_of_the_golden_outputs(fp32) -> None:
    row = fp32.golden()[0]
    powers = np.exp(row["logits"])
    answer = json.loads(fp32.run("classify.py", "--json", row["text"]).stdout)
    assert answer["probability"] == pytest.approx((powers / powers.sum()).max(), abs=1e-6)


def test_a_pair_is_two_arguments_or_two_columns(pair) -> None:
    golden = pair.golden()[0]
    ran = pair.run("classify.py", "--json", golden["text"], golden["text_b"])
    line = f"{golden['text']}\t{golden['text_b']}\n".encode()
    assert ran.stdout == pair.run("classify.py", "--json", stdin=line).stdout
    answer = json.loads(ran.stdout)
    assert (answer["text"], answer["text_b"]) == (golden["text"], golden["text_b"])
    assert answer["label"] == golden["label"]


def test_half_a_pair_is_wrong_usage(pair) -> None:
    ran = pair.run("classify.py", "one text")
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr == b"classify.py: the model takes pairs of texts, found 1 arguments\n"
    ran = pair.run("classify.py", stdin=b"a\tb\nno tab\n")
    assert ran.returncode == 2
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stderr == b"classify.py: line 2: expected two texts with a TAB between them\n"


def test_a_damaged_folder_is_told_in_a_sentence(fp32) -> None:
    (fp32.folder / "model.onnx").write_bytes(b"damaged")
    ran = fp32.run("classify.py", "good")
    assert ran.returncode == 4
    assert ran.stderr.startswith(b"classify.py: model.onnx: cannot be opened: ")
    assert ran.stderr.endswith(b"(run selftest.py)\n")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read"):
        Classifier(tmp_path)


def test_padding_never_changes_the_probabilities(fp32_bundle: Path) -> None:
    classifier = Classifier(fp32_bundle)
    rows = [("good",), ("the film is not bad , it is great !",), ("",)]
    alone = np.concatenate([classifier.probabilities([row]) for row in rows])
    np.testing.assert_allclose(classifier.probabilities(rows), alone, atol=1e-6)


def test_a_reader_that_stops_early_is_no_error(fp32) -> None:
    command = [sys.executable, "-I", str(fp32.folder / "classify.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdin
        assert ran.stdout
        assert ran.stderr
        ran.stdin.write(b"good\n")
        ran.stdin.flush()
        assert ran.stdout.readline().count(b"\t") == 1
        ran.stdout.close()
        ran.stdin.write(b"bad\n")
        ran.stdin.close()
        assert ran.stderr.read() == b""
        assert ran.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def both(fp32_bundle: Path, workshop) -> tuple[Classifier, PreTrainedTokenizerFast]:
    """The shipped tokenizer and the one it must equal."""
    return Classifier(fp32_bundle), AutoTokenizer.from_pretrained(workshop.tokenizer)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3))
def test_tokens_are_those_of_transformers_on_any_text(
    both: tuple[Classifier, PreTrainedTokenizerFast], rows: list[tuple[str, str]]
) -> None:
    classifier, reference = both
    expected = reference(
        [first for first, _ in rows],
        [second for _, second in rows],
        padding=True,
        truncation=True,
        max_length=24,
        return_token_type_ids=True,
    )
    found = classifier.encode(rows)
    assert set(found) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, array in found.items():
        assert array.dtype == np.int64
        assert array.tolist() == expected[name]
