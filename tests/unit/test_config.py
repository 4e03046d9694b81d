"""Configuration files are read safely, checked strictly, and refused with a way out."""

from pathlib import Path

import pytest

from toolchain.config import apply_overrides, dump_yaml, parse, read_yaml
from toolchain.errors import UsageError
from toolchain.recipe import Recipe, load_recipe

BASE = {"teacher": "t", "data": {"path": "d"}}


def test_a_recipe_survives_being_written_and_read(tmp_path: Path) -> None:
    recipe = load_recipe(None, {**BASE, "train": {"lr": 3e-5}}, ["stages.pred.epochs=2"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(recipe))
    assert load_recipe(path, {}, []) == recipe


def test_options_win_over_the_file_and_overrides_over_both(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("teacher: a\ndata: {path: d}\ntrain: {lr: 0.1, epochs: 2}\nseed: 1\n")
    recipe = load_recipe(path, {"teacher": "b", "train": {"lr": 0.2}}, ["seed=7"])
    assert (recipe.teacher, recipe.train.lr, recipe.train.epochs, recipe.seed) == ("b", 0.2, 2, 7)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-3"])
def test_a_learning_rate_may_be_written_as_people_do(text: str) -> None:
    assert load_recipe(None, BASE, [f"train.lr={text}"]).train.lr == 0.001


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("teacher: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match=r"r\.yaml:1"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({**BASE, "sead": 1}, "unknown key 'sead', did you mean 'seed'?"),
        ({**BASE, "train": {"lrr": 1}}, "unknown key 'train.lrr', did you mean 'lr'?"),
        ({**BASE, "stages": {"pred": {"epoch": 1}}}, "'stages.pred.epoch', did you mean 'epochs'?"),
        ({**BASE, "qqq": 1}, "known keys: "),
        ({"data": {"path": "d"}}, "key 'teacher' is missing"),
        ({**BASE, "seed": "one"}, "seed: should be a valid integer, found 'one'"),
        ({**BASE, "seed": True}, "seed: should be a valid integer, found True"),
        ({**BASE, "targets": ["host", "host"]}, "a target is named twice"),
        ({**BASE, "train": {"warmup": 1.5}}, "train.warmup: should be less than 1, found 1.5"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(values: dict, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(Recipe, values, where="r.yaml")
    assert str(refusal.value).startswith("r.yaml: ")
    assert sentence in str(refusal.value)


def test_an_override_cannot_go_through_a_value() -> None:
    with pytest.raises(UsageError, match="holds a value, not a section"):
        apply_overrides({"seed": 1}, ["seed.x=2"])


def test_overrides_leave_their_source_alone() -> None:
    source = {"train": {"lr": 1}}
    assert apply_overrides(source, ["train.lr=2"]) == {"train": {"lr": 2}}
    assert source == {"train": {"lr": 1}}
