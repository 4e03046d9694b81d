"""Formats are resolved, and refused, before any weight is loaded."""

from pathlib import Path

import pytest

from toolchain.errors import UsageError
from toolchain.export.exporter import Exporter, exporters
from toolchain.plan.formats import check_expressible, with_formats
from toolchain.plan.precision import with_precisions
from toolchain.recipe import Recipe, load_recipe
from toolchain.target import load_target


def asked(*formats: str, **more: object) -> Recipe:
    values = {"teacher": "t", "data": {"path": "d"}, "formats": list(formats), **more}
    return load_recipe(None, values, [])


def as_if_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def missing(self: Exporter) -> tuple[str, ...]:
        return tuple(name for name in self.packages if name not in names)

    monkeypatch.setattr(Exporter, "missing", missing)


def test_onnx_alone_is_the_default() -> None:
    recipe = load_recipe(None, {"teacher": "t", "data": {"path": "d"}}, [])
    assert with_formats(recipe, [load_target("host")]).formats == ["onnx"]


def test_auto_is_what_a_target_takes_and_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    host = load_target("host")
    as_if_installed(monkeypatch, "openvino", "nncf")
    assert with_formats(asked("auto"), [host]).formats == ["onnx", "openvino"]
    as_if_installed(monkeypatch)
    assert with_formats(asked("auto"), [host]).formats == ["onnx"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_installed(monkeypatch, "openvino")
    with pytest.raises(UsageError, match="format openvino needs nncf") as caught:
        with_formats(asked("onnx", "openvino"), [])
    assert "toolchain[openvino]" in str(caught.value.hint)


def test_an_unknown_format_names_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'openvno'") as caught:
        with_formats(asked("onnx", "openvno"), [])
    assert "did you mean 'openvino'" in str(caught.value.hint)
    profile = tmp_path / "mine.yaml"
    text = (
        "name: mine\nsummary: s\nfidelity: none\nruntime: {name: onnxruntime}\n"
        "accepts: {formats: [tflite], precisions: [fp32]}\nbudget: {memory_bytes: 1}\n"
    )
    profile.write_text(text)
    with pytest.raises(UsageError, match=r"target mine: accepts.formats: unknown format 'tflite'"):
        with_formats(asked("onnx"), [load_target(str(profile))])


def test_without_onnx_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(UsageError, match="formats must hold onnx"):
        asked("openvino")


def test_a_decoder_is_refused_by_name_and_left_out_by_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_if_installed(monkeypatch, "openvino", "nncf")
    named, auto = asked("onnx", "openvino"), asked("auto")
    with pytest.raises(
        UsageError, match=r"openvino holds models for .*, the data are for causal_lm"
    ):
        check_expressible(named, with_formats(named, []), "causal_lm")
    resolved = with_formats(auto, [load_target("host")])
    assert check_expressible(auto, resolved, "causal_lm").formats == ["onnx"]
    assert check_expressible(auto, resolved, "tag").formats == ["onnx", "openvino"]


def test_a_format_brings_precisions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_installed(monkeypatch, "openvino", "nncf")
    recipe = with_formats(asked("onnx", "openvino", precisions=["bf16", "fp32"]), [])
    assert with_precisions(recipe, []).precisions == ["bf16", "fp32"]


@pytest.mark.parametrize("name", exporters.names())
def test_every_format_says_what_it_takes(name: str) -> None:
    exporter = exporters.get(name)
    assert "fp32" in exporter.files
    assert all(file.startswith(f"{name}/") for file in exporter.files.values())
    assert bool(exporter.packages) == bool(exporter.extra)
    assert bool(exporter.tasks) == (name != "onnx")
    assert set(exporter.calibrated) <= set(exporter.files)
