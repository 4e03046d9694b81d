"""In which precisions a student is written."""

import pytest

from toolchain.errors import UsageError
from toolchain.optimize.precision import precisions
from toolchain.plan.precision import with_precisions
from toolchain.recipe import Recipe
from toolchain.target import load_target


def asked(*names: str) -> Recipe:
    return Recipe.model_validate({"teacher": "t", "data": {"path": "d"}, "precisions": list(names)})


def test_what_is_asked_for_is_kept_once_with_fp32_last() -> None:
    assert with_precisions(asked("fp32", "int8", "int8"), []).precisions == ["int8", "fp32"]
    assert with_precisions(asked("fp32"), []).precisions == ["fp32"]


def test_auto_is_what_the_targets_take() -> None:
    host, other = load_target("host"), load_target("raspberry-pi-4")
    found = with_precisions(asked("auto"), [host, other]).precisions
    assert found[-1] == "fp32"
    taken = {*host.accepts.precisions, *other.accepts.precisions}
    # bf16 is a precision of another format's, which was not asked for.
    assert set(found) == taken - {"bf16"}
    assert set(found) <= {*precisions.names(), "fp32"}


def test_an_unknown_precision_names_its_neighbour() -> None:
    with pytest.raises(UsageError, match="unknown precision 'int9'"):
        with_precisions(asked("int9", "fp32"), [])


def test_a_target_on_which_int8_overflows_gets_the_reduced_one() -> None:
    old, host = load_target("x86-avx2"), load_target("host")
    assert with_precisions(asked("int8", "fp32"), [old]).precisions == ["int8_reduced", "fp32"]
    both = with_precisions(asked("int8", "fp32"), [old, host]).precisions
    assert both == ["int8", "int8_reduced", "fp32"]
    assert with_precisions(asked("fp32"), [old]).precisions == ["fp32"]
