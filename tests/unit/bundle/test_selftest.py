"""A bundle proves itself where it lies: it passes whole, and every kind of damage is told."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from toolchain.bundle.check import selftest
from toolchain.errors import IntegrityError, UsageError

NEEDED = ["bundle.json", "classify.py", "golden.jsonl", "model.onnx", "tokenizer.json"]


def only_problem(report: dict[str, Any]) -> str:
    assert len(report["problems"]) == 1, report["problems"]
    return report["problems"][0]


def test_a_whole_fp32_bundle_passes(fp32) -> None:
    report = fp32.prove()
    assert report["problems"] == []
    assert report["rows"] >= 32
    assert report["max_abs"] <= 1e-4
    assert report["max_abs_padded"] <= 1e-4
    assert report["target"] == "raspberry-pi-4"
    assert report["digest"] == fp32.manifest()["digest"]


def test_a_whole_int8_bundle_passes(int8) -> None:
    report = int8.prove()
    assert report["problems"] == []
    assert report["mean_cosine"] >= 0.999
    assert report["agreement"] == 1


def test_a_whole_bundle_of_pairs_passes(pair) -> None:
    assert pair.prove()["problems"] == []


def test_the_self_test_leaves_nothing_behind(fp32) -> None:
    before = sorted(fp32.folder.rglob("*"))
    assert fp32.prove()["notes"] == []
    assert sorted(fp32.folder.rglob("*")) == before


def test_a_person_reads_pass_or_what_differs(fp32) -> None:
    assert fp32.run("selftest.py").stdout.startswith(b"PASS")
    (fp32.folder / "model.onnx").unlink()
    ran = fp32.run("selftest.py")
    assert ran.returncode == 4
    assert ran.stdout.splitlines()[:2] == [b"FAIL", b"problem: model.onnx is missing"]


def test_a_flipped_bit_of_the_model_is_found(fp32) -> None:
    path = fp32.folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    report = fp32.prove()
    assert only_problem(report).startswith("model.onnx was changed: sha256 ")
    assert "tokens and outputs were not checked" in report["notes"][0]


@pytest.mark.parametrize("name", NEEDED)
def test_a_changed_file_is_found(fp32, name: str) -> None:
    with (fp32.folder / name).open("ab") as file:
        file.write(b"\n")
    assert only_problem(fp32.examine()).startswith(f"{name} was changed")


@pytest.mark.parametrize("name", [*NEEDED, "LICENSES/teacher.txt"])
def test_a_missing_file_is_found(fp32, name: str) -> None:
    (fp32.folder / name).unlink()
    assert only_problem(fp32.examine()) == f"{name} is missing"


def test_extra_files_are_noted_and_harmless(fp32) -> None:
    for number in range(7):
        (fp32.folder / f"extra{number}").write_text("")
    report = fp32.examine()
    assert report["problems"] == []
    assert report["notes"][0] == "extra0 is no part of the bundle"
    assert report["notes"][-1] == "2 more files are no part of the bundle"


@pytest.mark.parametrize(
    "name", ["../outside", "LICENSES/../../outside", "/etc/hostname", "..\\outside", "C:x", "", "."]
)
def test_a_manifest_cannot_point_outside(fp32, name: str) -> None:
    (fp32.folder.parent / "outside").write_text("")
    fp32.write_manifest({**fp32.manifest()["files"], name: "0" * 64})
    expected = f"manifest.json lists {name!r}, which points outside this folder"
    assert only_problem(fp32.prove()) == expected


def test_a_link_to_outside_is_no_file_of_the_bundle(fp32) -> None:
    outside = fp32.folder.parent / "outside"
    (fp32.folder / "README.md").rename(outside)
    (fp32.folder / "README.md").symlink_to(outside)
    assert "points outside" in only_problem(fp32.examine())


def test_a_manifest_without_a_needed_file_is_found(fp32) -> None:
    files = fp32.manifest()["files"]
    del files["golden.jsonl"]
    fp32.write_manifest(files)
    assert only_problem(fp32.examine()) == "manifest.json does not list golden.jsonl"


def test_a_manifest_that_was_edited_is_found(fp32) -> None:
    manifest = fp32.manifest()
    del manifest["files"]["README.md"]
    (fp32.folder / "manifest.json").write_text(json.dumps(manifest))
    assert "its digest is not that of its files" in only_problem(fp32.examine())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": []}', '{"files": {}}', "\x00"])
def test_a_manifest_that_cannot_be_read_is_told(fp32, content: str) -> None:
    (fp32.folder / "manifest.json").write_text(content)
    assert only_problem(fp32.examine()).startswith("manifest.json cannot be read: ")


def test_another_tokenizer_is_found_although_the_manifest_agrees(fp32, workshop) -> None:
    other = workshop.save_tokenizer("cased", lowercase=False) / "tokenizer.json"
    (fp32.folder / "tokenizer.json").write_bytes(other.read_bytes())
    fp32.reseal()
    problem = only_problem(fp32.prove())
    assert problem.startswith("the tokens of ")
    assert "golden rows differ, first row " in problem


@pytest.mark.parametrize("content", ["{}", "no JSON"])
def test_an_unreadable_tokenizer_is_told(fp32, content: str) -> None:
    (fp32.folder / "tokenizer.json").write_text(content)
    fp32.reseal()
    assert only_problem(fp32.examine()).startswith("tokenizer.json: cannot be read: ")


def test_another_model_is_found_although_the_manifest_agrees(fp32, workshop) -> None:
    other = workshop.save_model("other", seed=1)
    (fp32.folder / "model.onnx").write_bytes(other.read_bytes())
    fp32.reseal()
    report = fp32.examine()
    assert any("golden rows differs by more than 0.0001" in p for p in report["problems"])


def test_another_int8_model_is_found_although_the_manifest_agrees(int8, workshop) -> None:
    other = workshop.save_model("other-for-int8", seed=1)
    (int8.folder / "model.onnx").write_bytes(other.read_bytes())
    int8.reseal()
    problems = " ".join(int8.prove()["problems"])
    assert "mean cosine" in problems
    assert "have a cosine below 0.99" in problems
    assert "get another label" in problems


def test_a_model_of_other_labels_is_told(fp32, workshop) -> None:
    other = workshop.save_model("three", classes=3)
    (fp32.folder / "model.onnx").write_bytes(other.read_bytes())
    fp32.reseal()
    assert only_problem(fp32.examine()) == "model.onnx: answers (1, 3), expected (1, 2)"


def test_a_model_that_answers_nan_is_told(fp32, workshop) -> None:
    other = workshop.save_model("nan", bias=float("nan"))
    (fp32.folder / "model.onnx").write_bytes(other.read_bytes())
    fp32.reseal()
    assert "the output is [nan, nan]" in only_problem(fp32.examine())


def test_a_model_of_another_kind_is_told(fp32) -> None:
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", value[:1], value[1:])
    versions = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 10}
    onnx.save(helper.make_model(graph, **versions), fp32.folder / "model.onnx")
    fp32.reseal()
    assert only_problem(fp32.examine()).startswith("model.onnx: cannot run: ")


def test_a_model_of_an_unknown_opset_is_told(fp32) -> None:
    model = onnx.load(fp32.folder / "model.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, fp32.folder / "model.onnx")
    fp32.reseal()
    assert only_problem(fp32.examine()).startswith("model.onnx: cannot be opened: ")


def test_a_file_that_is_no_model_is_told(fp32) -> None:
    (fp32.folder / "model.onnx").write_bytes(b"no model")
    fp32.reseal()
    assert only_problem(fp32.prove()).startswith("model.onnx: cannot be opened: ")


def test_a_changed_golden_output_is_found_although_the_manifest_agrees(fp32) -> None:
    rows = fp32.golden()
    best = max(range(2), key=rows[3]["logits"].__getitem__)
    rows[3]["logits"][best] += 2e-3
    fp32.write_golden(rows)
    fp32.reseal()
    problems = fp32.examine()["problems"]
    assert len(problems) == 2
    assert f"the output of 1 of {len(rows)} golden rows differs by more" in problems[0]
    assert 'in row 4, "the film and the cafe ."' in problems[0]
    assert "in a padded batch" in problems[1]


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
def test_changed_golden_tokens_are_found_although_the_manifest_agrees(pair, name: str) -> None:
    rows = pair.golden()
    rows[1][name][-1] ^= 1
    pair.write_golden(rows)
    pair.reseal()
    expected = f'the tokens of 1 of {len(rows)} golden rows differ, first row 2, "a bad film"'
    assert only_problem(pair.examine()) == expected


def test_a_golden_label_that_is_not_its_outputs_is_found(fp32) -> None:
    rows = fp32.golden()
    rows[0]["label"] = {"negative": "positive", "positive": "negative"}[rows[0]["label"]]
    fp32.write_golden(rows)
    fp32.reseal()
    assert "a label that is not that of its output" in only_problem(fp32.examine())


def test_golden_outputs_that_are_not_finite_are_found(int8) -> None:
    rows = int8.golden()
    rows[0]["logits"] = [float("nan"), 1.0]
    int8.write_golden(rows)
    int8.reseal()
    assert "golden.jsonl records an output of [nan, 1.0]" in only_problem(int8.examine())


@pytest.mark.parametrize("content", ["", "{}\n", "no JSON\n", "[]\n"])
def test_golden_rows_that_prove_nothing_are_told(fp32, content: str) -> None:
    (fp32.folder / "golden.jsonl").write_text(content)
    fp32.reseal()
    assert "golden.jsonl is malformed: " in only_problem(fp32.examine())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", None),
        ("labels", ["one"]),
        ("runtime", {}),
        ("tokenizer", {}),
        ("inputs", ["pixels"]),
        ("max_tokens", "many"),
        ("tolerances", {}),
    ],
)
def test_a_bundle_json_that_makes_no_sense_is_told(fp32, key: str, value: object) -> None:
    about = {**fp32.about(), key: value}
    (fp32.folder / "bundle.json").write_text(json.dumps(about))
    fp32.reseal()
    only_problem(fp32.examine())


def test_int8_may_differ_a_little(int8) -> None:
    rows = int8.golden()
    for number, row in enumerate(rows):
        scale = 1.02 if number % 2 else 0.98
        row["logits"] = [row["logits"][0] * scale, row["logits"][1] / scale]
    int8.write_golden(rows)
    int8.reseal()
    report = int8.examine()
    assert report["problems"] == []
    assert report["mean_cosine"] < 1


def flip(rows: list[dict[str, Any]], number: int, logits: list[float], labels: list[str]) -> None:
    rows[number]["logits"] = logits
    rows[number]["label"] = labels[logits.index(max(logits))]


def other_side(logits: list[float], margin: float) -> list[float]:
    best = logits.index(max(logits))
    return [0.0 if index == best else margin for index in range(2)]


def test_a_close_call_that_falls_otherwise_is_noted_not_judged(int8) -> None:
    rows = int8.golden()
    flip(rows, 0, other_side(rows[0]["logits"], 0.001), int8.about()["labels"])
    int8.write_golden(rows)
    int8.reseal()
    report = int8.examine()
    assert report["problems"] == []
    assert report["close_calls"] >= 1
    assert "too close to call" in report["notes"][0]
    assert "1 of them decide otherwise here" in report["notes"][0]
    assert report["agreement"] == pytest.approx(1 - 1 / len(rows))


def test_a_clear_decision_that_falls_otherwise_fails_int8(int8) -> None:
    rows = int8.golden()
    flip(rows, 0, other_side(rows[0]["logits"], 5.0), int8.about()["labels"])
    int8.write_golden(rows)
    int8.reseal()
    problems = int8.examine()["problems"]
    assert any(f"1 of {len(rows)} golden rows get another label: row 1" in p for p in problems)


def test_an_older_runtime_than_asked_for_is_noted(fp32) -> None:
    about = fp32.about()
    about["runtime"]["minimum"] = "999.0"
    (fp32.folder / "bundle.json").write_text(json.dumps(about))
    fp32.reseal()
    report = fp32.examine()
    assert report["problems"] == []
    assert "is older than 999.0, which is asked for" in report["notes"][0]


def test_the_command_line_gets_the_same_findings(fp32) -> None:
    assert selftest(fp32.folder) == []
    (fp32.folder / "model.onnx").unlink()
    assert selftest(fp32.folder) == ["model.onnx is missing"]


def test_a_changed_self_test_is_not_run(fp32) -> None:
    (fp32.folder / "selftest.py").write_text("print('PASS')")
    assert selftest(fp32.folder) == ["selftest.py was changed, so it was not run"]
    (fp32.folder / "selftest.py").unlink()
    assert selftest(fp32.folder) == ["selftest.py is missing"]


def test_what_is_no_bundle_is_refused(fp32, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        selftest(tmp_path)
    files = fp32.manifest()["files"]
    fp32.write_manifest({**files, "../x": "0" * 64})
    with pytest.raises(IntegrityError, match="outside"):
        selftest(fp32.folder)
    del files["selftest.py"]
    fp32.write_manifest(files)
    with pytest.raises(UsageError, match="not a bundle"):
        selftest(fp32.folder)
