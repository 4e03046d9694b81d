"""`toolchain plan`: from a configuration alone to what fits, and refusals that name a way out."""

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.__main__ import main

LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
    "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_7B))
    return path


def plan(config: Path, *words: str) -> int:
    return main(["plan", "--teacher", str(config), "--method", "kd", "--batch", "8", *words])


def planned(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    plan(config, "--json", *words)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_teacher_of_7b_is_planned_without_its_weights_or_the_gpus(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--teacher-placement", "zero3", "--student-placement", "zero2", "student.layers=4")
    words = ("--method", "minilm_v2", "--tokens", "512", "--hardware", "8x40GB", *asked)
    assert plan(config, *words) == 0
    text = capsys.readouterr().out
    assert "6,738,415,616 parameters" in text
    assert "fits: teacher zero3, student zero2" in text
    # A folder with that file is the same.
    assert plan(config.parent, *words) == 0
    assert capsys.readouterr().out == text


def test_json_says_for_every_placement_what_it_needs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(config, capsys, "--hardware", "8x80GB,host=1TB,disk=4TB", "--layers", "4")
    assert set(found) == {
        "batch", "fidelity", "fitting", "fitting_batch", "hardware", "method", "placements",
        "precision", "reasons", "stage", "student", "teachers", "tokens", "way_out",
    }  # fmt: skip
    assert found["fidelity"] == "estimated"
    assert found["precision"] == "bf16"
    assert found["hardware"] == {
        "name": "8x80GB", "ranks": 8, "rank_bytes": 80 * 10**9, "gpu": True,
        "host_bytes": 10**12, "disk_bytes": 4 * 10**12,
    }  # fmt: skip
    assert found["fitting"] == {"teacher": "whole", "student": "whole"}
    assert len(found["placements"]) == 25
    for one in found["placements"]:
        assert set(one) == {"budget", "fits", "refused", "student", "teacher"}
        assert one["fits"] == (one["refused"] is None)
        budget = one["budget"]
        moments = ("loss", "update", "store")
        sums = {m: sum(s[m] for s in budget["shares"] if s["where"] == "rank") for m in moments}
        assert max(*sums.values(), budget["before_bytes"]) == budget["rank_bytes"]
        assert all(set(s) == {"formula", "name", "where", *moments} for s in budget["shares"])


def test_what_does_not_fit_ends_with_5_and_a_placement_that_does(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ("--teacher-placement", "whole", "--student-placement", "whole")
    assert plan(config, "--hardware", "8x20GB", "--layers", "4", *whole) == 5
    said = capsys.readouterr()
    assert "nothing asked about fits" in said.out
    assert "on each GPU (estimated), 20.0 GB are there" in said.err
    assert "the cheapest placement that fits: teacher" in said.err


def test_without_any_placement_a_smaller_batch_is_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--layers", "8", "--tokens", "4096", "--batch", "64", "--hardware", "1x40GB")
    assert plan(config, *words) == 5
    assert "with --batch" in capsys.readouterr().err
    assert plan(config, "--hardware", "1x100MB") == 5
    assert "more hardware" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hardware", "8x40"), "cannot read '8x40'"),
        (("--hardware", "8x40GB", "--teacher-placement", "zero2"), "placement.teacher"),
        (("--precision", "fp16"), "train.precision"),
        (("--tokens", "8192"), "the models have 4096 positions"),
        (("--layers", "40"), "only 32 to copy"),
        (("--method", "nonsense"), "nonsense"),
        (("data.task=classifi",), "data.task"),
        (("data.task=mask_lm",), "mask_lm"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(
    config: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert plan(config, *words) == 2
    assert said in capsys.readouterr().err


def test_a_teacher_that_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "cut.json").write_text('{"model_type": ')
    for name in ("absent", "list.json", "cut.json"):
        assert main(["plan", "--teacher", str(tmp_path / name)]) == 2
        assert "teacher" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "--teacher is missing" in capsys.readouterr().err


def test_a_recipe_is_planned_as_it_would_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {config}\ndata: {{path: nowhere, max_tokens: 128}}\nmethod: rkl\n"
        "student: {layers: 2}\nplacement: {hardware: 4x40GB, student: zero1}\n"
    )
    assert main(["plan", str(recipe), "--json", "train.batch_size=4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["batch"], found["tokens"]) == ("rkl", 4, 128)
    assert {one["student"] for one in found["placements"]} == {"zero1"}


def test_a_run_that_cannot_fit_is_refused_before_it_starts(
    encoder_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", "--teacher", str(encoder_folder), "--data", str(task_folder)]
    words += ["-o", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(words) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert (memory["teacher"], memory["student"]) == ("whole", "whole")
    assert memory["rank_bytes"] > 380 << 20
    assert main([*words, "placement.hardware=host,host=100MB"]) == 5
    said = capsys.readouterr().err
    assert "training needs" in said
    assert "no placement fits here" in said
    assert main([*words, "placement.teacher=streamed"]) == 2
    assert "a bare encoder that has still to be fine-tuned" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
