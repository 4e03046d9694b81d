import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from toolchain.report.headline import headline
from toolchain.report.renderers import html
from toolchain.report.report import Points, Report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags are balanced; keeps elements, texts and the embedded data."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data = ""
        self.feed(page)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data += data
        elif not (self.open and self.open[-1] == "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(report: Report) -> str:
    return html.render(report).decode()


def test_tags_are_balanced_and_ids_unique(any_report: Report) -> None:
    read = Reader(page(any_report))
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in read.elements if tag == "a"]
    assert all(link and link.startswith("#") and link[1:] in ids for link in links)


def test_the_page_asks_for_nothing_from_outside(any_report: Report) -> None:
    content = page(any_report)
    read = Reader(content)
    for tag, attrs in read.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "video"}
        assert not {"src", "srcset", "data", "poster", "action", "background"} & set(attrs), tag
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert (attrs.get("href") or "#").startswith("#")
        assert "url(" not in (attrs.get("style") or "")
    style = re.search(r"(?s)<style>(.*?)</style>", content)
    assert style is not None
    assert not re.search(r"url\(|@import|@font-face|expression", style.group(1))
    policy = next(a for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_only_script_is_data_and_reads_back_as_the_report(any_report: Report) -> None:
    content = page(any_report)
    read = Reader(content)
    scripts = [attrs for tag, attrs in read.elements if tag == "script"]
    assert [attrs["type"] for attrs in scripts] == ["application/json"]
    assert len(read.data) < 1_000_000
    embedded = Report.from_json(json.loads(read.data))
    assert [dataclasses.replace(e, samples=()) for e in any_report.models[0].latency] == list(
        embedded.models[0].latency
    )
    assert embedded.gates == any_report.gates
    assert '"samples":' not in read.data


def test_long_curves_are_thinned_in_the_embedded_copy(report: Report) -> None:
    steps = tuple(range(1, 50_001))
    loss = tuple(1 / step for step in steps)
    curve = dataclasses.replace(report.curves[0], points=Points(step=steps, loss=loss))
    content = page(dataclasses.replace(report, curves=(curve,) * 4))
    assert len(content) < 1_000_000
    points = Report.from_json(json.loads(Reader(content).data)).curves[0].points
    assert len(points.step) == len(points.loss) <= 202
    assert points.step[-1] == 50_000


def test_every_gate_and_every_model_is_on_the_page(any_report: Report) -> None:
    read = Reader(page(any_report))
    for row in headline(any_report):
        assert (
            " ".join("".join(c if c.isprintable() else " " for c in row.label).split()) in read.text
        )
        assert (
            " ".join("".join(c if c.isprintable() else " " for c in row.name).split()) in read.text
        )
    verdicts = [words for words in read.texts if words in ("passed", "failed", "undecided")]
    expected = [
        {True: "passed", False: "failed", None: "undecided"}[g.passed] for g in any_report.gates
    ]
    assert verdicts == expected
    rows = [a for t, a in read.elements if t == "td" and a.get("data-head") == "verdict"]
    assert len(rows) == len(any_report.gates)


def test_hostile_words_are_text_and_nothing_else(reports: dict[str, Report]) -> None:
    content = page(reports["hostile"])
    read = Reader(content)
    assert "<script>alert(1)</script>" in read.text
    assert "onerror=alert(2)" in read.text
    assert not any(tag == "img" for tag, _ in read.elements)
    assert "\x1b" not in content
    assert "<!--" not in content
    assert content.count("</script>") == 1


def test_figures_stand_in_the_markup_once_each(report: Report) -> None:
    read = Reader(page(report))
    svgs = [attrs for tag, attrs in read.elements if tag == "svg"]
    figures = [tag for tag, _ in read.elements if tag == "figure"]
    assert len(svgs) == len(figures) == 4 + 1 + 4 + 1
    assert all(attrs["role"] == "img" for attrs in svgs)


def test_a_missing_p99_is_a_dash_that_explains_itself(reports: dict[str, Report]) -> None:
    content = page(reports["tiny"])
    assert '<abbr title="needs 1,000 samples, 400 were taken">&ndash;</abbr>' in content
    assert "A p99 is printed from 1,000 samples upwards." in content


def test_a_target_nobody_timed_is_called_not_measured(report: Report) -> None:
    read = Reader(page(report))
    assert "raspberry-pi-4" in read.text
    assert "no figure on this page was taken there" in read.text
    assert "measured on host" in read.text


def test_an_estimate_carries_the_word_in_its_cell(report: Report) -> None:
    models = tuple(
        dataclasses.replace(
            m, latency=tuple(dataclasses.replace(e, fidelity="estimated") for e in m.latency)
        )
        for m in report.models
    )
    read = Reader(page(dataclasses.replace(report, models=models, ratios=())))
    assert read.text.count("(estimated)") >= 4 * len(models)


def test_the_headline_and_the_warning_come_before_the_table(report: Report) -> None:
    content = page(report)
    order = [content.index(mark) for mark in ("<h1>", 'class="kpis"', 'class="alert', "<table")]
    assert order == sorted(order)
    assert "11.0x faster than the teacher in PyTorch" in content


def test_a_failed_run_says_so_at_the_top(reports: dict[str, Report]) -> None:
    top = Reader(page(reports["int8_refused"]).split("<main>")[0] + "</body></html>").text
    assert "6 of 8 gates passed, 2 failed" in top
    assert "gate latency failed the run" in top
    assert "student ONNX int8 is not shipped" in top


@pytest.mark.parametrize("name", ["only_teacher", "sparse", "one_length", "no_baseline"])
def test_sections_without_content_are_left_out(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    content = page(report)
    assert ('id="training"' in content) == bool(report.curves)
    assert ('id="gates"' in content) == bool(report.gates)
    assert ('id="speed"' in content) == bool(report.ratios)
    assert ('id="plan"' in content) == (report.plan is not None)
    assert not re.search(r"<(tbody|ul|dl|section)[^>]*>\s*</\1>", content)
    assert "None" not in Reader(content).text


def test_a_sentence_ends_up_in_the_title_for_whoever_gets_the_link(report: Report) -> None:
    title = re.search(r"<title>(.*?)</title>", page(report))
    assert title is not None
    assert title.group(1).startswith("sst2: 3-layer student, int8: 11.0x faster")
