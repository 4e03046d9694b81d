import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len

from toolchain.errors import UsageError
from toolchain.report.renderers import RENDERERS
from toolchain.report.renderers.markdown import cell, escaped
from toolchain.report.renderers.terminal import draw
from toolchain.report.report import Report


def rendered(name: str, report: Report) -> str:
    return RENDERERS.get(name)(report).decode()


def test_the_renderers_are_found_by_name() -> None:
    assert RENDERERS.names() == ("card", "html", "json", "markdown", "terminal")
    assert all(RENDERERS.summary(name) for name in RENDERERS.names())


@pytest.mark.parametrize("name", ["card", "html", "json", "markdown", "terminal"])
def test_no_renderer_takes_a_report_that_contradicts_itself(name: str, report: Report) -> None:
    twice = Report(
        created="", command="", task=report.task, models=(report.models[0], report.models[0])
    )
    with pytest.raises(UsageError, match="two models are called"):
        RENDERERS.get(name)(twice)


@pytest.mark.parametrize("name", ["card", "html", "markdown", "terminal"])
def test_every_rendering_is_the_same_the_second_time(name: str, any_report: Report) -> None:
    assert rendered(name, any_report) == rendered(name, any_report)


@pytest.mark.parametrize("name", ["card", "html", "markdown", "terminal"])
def test_none_ever_claims_an_mlperf_result(name: str, report: Report) -> None:
    text = rendered(name, report)
    assert "mlperf" not in text.lower()
    assert "single-stream" in text
    assert "measured" in text


def test_json_keeps_each_list_of_numbers_on_one_line(report: Report) -> None:
    text = rendered("json", report)
    assert json.loads(text) == report.as_json()
    lines = text.splitlines()
    assert any(line.strip().startswith('"samples": [') and line.endswith("],") for line in lines)
    assert len(lines) < 1500


def test_a_string_that_looks_like_a_list_survives_in_json(reports: dict[str, Report]) -> None:
    text = rendered("json", reports["hostile"])
    assert json.loads(text) == reports["hostile"].as_json()


def test_markdown_of_a_small_report_is_known_to_the_letter(reports: dict[str, Report]) -> None:
    golden = Path(__file__).with_name("golden_tiny.md").read_text(encoding="utf-8")
    assert rendered("markdown", reports["tiny"]) == golden


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(any_report: Report) -> None:
    for name in ("markdown", "card"):
        counts: list[int] = []
        for line in rendered(name, any_report).splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            if cells and counts:
                assert cells == counts[0], line
            counts = [*counts, cells] if cells else []


def test_markdown_shows_words_as_they_are() -> None:
    assert cell("max_abs <= 1e-4") == "max_abs <= 1e-4"
    assert cell("a|b `c` <b>\n*d* _e_ &lt;") == r"a\|b \`c\` \<b> \*d\* \_e\_ \&lt;"
    assert [escaped(text) for text in ("# a", "1. b", "- c", "> d")] == [
        r"\# a",
        r"1\. b",
        r"\- c",
        r"\> d",
    ]


def test_hostile_words_open_no_tag_in_markdown(reports: dict[str, Report]) -> None:
    for name in ("markdown", "card"):
        text = rendered(name, reports["hostile"])
        outside = re.sub(r"(?s)```.*?```|^---.*?\n---", "", text)
        assert not re.search(r"(?<!\\)<[a-zA-Z/!]", outside)
        assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_terminal_table_fits_its_width(any_report: Report, width: int) -> None:
    for line in draw(any_report, width=width).splitlines():
        assert cell_len(line) <= width, line


def test_figures_are_never_cut_in_the_terminal(any_report: Report) -> None:
    wide = draw(any_report, width=200)
    narrow = draw(any_report, width=80)
    figures = set(re.findall(r"(?<= )\d[\d.,]*(?:x|%|M)?(?=\s)", wide.split("Latency is")[0]))
    shown = set(re.findall(r"(?<= )\d[\d.,]*(?:x|%|M)?(?=\s)", narrow.split("Latency is")[0]))
    assert figures <= shown


def test_the_terminal_is_plain_unless_colour_is_asked_for(report: Report) -> None:
    assert "\x1b" not in draw(report)
    assert "\x1b[" in draw(report, colour=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", draw(report, colour=True)).split() == draw(report).split()


def test_hostile_words_cannot_steer_the_terminal(reports: dict[str, Report]) -> None:
    text = draw(reports["hostile"])
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_the_terminal_shows_every_gate_with_its_verdict(reports: dict[str, Report]) -> None:
    text = draw(reports["int8_refused"])
    lines = [line for line in text.splitlines() if re.match(r"(passed|failed|undecided) ", line)]
    assert [line.split()[:2] for line in lines] == [
        [{True: "passed", False: "failed", None: "undecided"}[gate.passed], gate.gate]
        for gate in reports["int8_refused"].gates
    ]
    assert "[blocks the run]" in text
    assert "accuracy fell from 0.8842 to 0.8525" in " ".join(text.split())


def test_a_p99_without_samples_is_a_dash_in_the_terminal(reports: dict[str, Report]) -> None:
    text = draw(reports["tiny"])
    row = next(line for line in text.splitlines() if line.startswith("* student ONNX int8"))
    assert row.split()[4:10] == ["17.4M", "17.6", "141", "1.00", "1.25", "-"]
    assert "a p99 needs 1,000 samples" in text


def front_matter(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_has_the_front_matter_hubs_read(report: Report) -> None:
    assert front_matter(rendered("card", report)) == {
        "license": "apache-2.0",
        "base_model": "minilm-l6-sst2",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["toolchain", "knowledge-distillation", "onnx"],
        "metrics": ["accuracy"],
    }


def test_what_the_card_does_not_know_it_does_not_claim(reports: dict[str, Report]) -> None:
    entries = front_matter(rendered("card", reports["sparse"]))
    assert entries["license"] == "unknown"
    assert "base_model" not in entries
    assert "pipeline_tag" not in entries
    assert (
        "knowledge-distillation"
        not in front_matter(rendered("card", reports["only_teacher"]))["tags"]
    )


def test_hostile_words_stay_inside_the_front_matter(reports: dict[str, Report]) -> None:
    entries = front_matter(rendered("card", reports["hostile"]))
    assert set(entries) <= {
        "license", "base_model", "library_name", "pipeline_tag", "tags", "metrics",
    }  # fmt: skip


def test_the_code_of_the_card_is_python_that_names_the_shipped_file(any_report: Report) -> None:
    blocks = re.findall(r"(?s)```python\n(.*?)```", rendered("card", any_report))
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_the_card_says_how_to_load_what_is_shipped(report: Report) -> None:
    card = rendered("card", report)
    assert 'InferenceSession("onnx/model_quantized.onnx"' in card
    assert 'AutoModelForSequenceClassification.from_pretrained(".")' in card


def test_the_card_admits_limits(report: Report, reports: dict[str, Report]) -> None:
    card = rendered("card", report)
    assert "No latency was measured on raspberry-pi-4." in card
    assert "95 % interval of 0.8617 to 0.9043" in card
    refused = rendered("card", reports["int8_refused"])
    assert "- Student ONNX int8 is not shipped (max_drop: 0.0317" in refused
    assert "Gate latency failed the run" in refused


def test_a_local_path_does_not_leave_the_machine_in_the_card(report: Report) -> None:
    import dataclasses

    local = dataclasses.replace(report, base_model="/home/somebody/models/my-teacher")
    card = rendered("card", local)
    assert "somebody" not in card
    assert front_matter(card)["base_model"] == "my-teacher"
