import dataclasses
import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from toolchain.report.headline import headline
from toolchain.report.placing import Box, text_width
from toolchain.report.plots import Figure, quality_against_latency, series, sizes
from toolchain.report.report import Curve, Evals, Points, Report
from toolchain.report.svg import Linear, Log, element, text, thinned, tick_label
from toolchain.report.timing_plots import distributions, latency_by_tokens
from toolchain.report.training_plots import layer_map, loss_curve, quality_by_step


def drawings(report: Report) -> dict[str, Figure]:
    found = [
        quality_against_latency(report),
        sizes(report),
        latency_by_tokens(report),
        distributions(report),
        quality_by_step(report),
        layer_map(report),
        *(loss_curve(curve, f"loss-{n}") for n, curve in enumerate(report.curves)),
    ]
    return {figure.key: figure for figure in found if figure}


def words_of(figure: Figure) -> list[tuple[str, Box]]:
    """Every text of a drawing with its box, after its anchor."""
    found = []
    for node in ET.fromstring(figure.svg).iter("text"):
        words = node.text or ""
        width = text_width(words, 11.0)
        x, y = float(node.attrib["x"]), float(node.attrib["y"])
        left = {"start": x, "middle": x - width / 2, "end": x - width}[node.attrib["text-anchor"]]
        found.append((words, Box(left, y - 8.5, left + width, y + 2)))
    return found


def test_every_drawing_is_well_formed_titled_and_described(any_report: Report) -> None:
    figures = drawings(any_report)
    assert figures
    for key, figure in figures.items():
        root = ET.fromstring(figure.svg)
        assert root.tag == "svg"
        ids = root.attrib["aria-labelledby"].split()
        named = {node.attrib["id"]: node.text for node in root if "id" in node.attrib}
        assert ids == [f"{key}-title", f"{key}-desc"]
        assert all(named[name] for name in ids)
        assert figure.title


def test_every_coordinate_is_finite_and_inside_the_drawing(any_report: Report) -> None:
    for figure in drawings(any_report).values():
        root = ET.fromstring(figure.svg)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for node in root.iter():
            for key, limit in (("x", width), ("cx", width), ("x1", width), ("x2", width)):
                if key in node.attrib:
                    assert -1 <= float(node.attrib[key]) <= limit + 1, (figure.key, node.attrib)
            for key in ("y", "cy", "y1", "y2"):
                if key in node.attrib:
                    assert -1 <= float(node.attrib[key]) <= height + 1, (figure.key, node.attrib)
        assert not re.search(r"\b(nan|inf)\b", figure.svg)


def test_no_two_words_of_a_drawing_overlap(any_report: Report) -> None:
    for figure in drawings(any_report).values():
        for (one, box), (other, second) in combinations(words_of(figure), 2):
            assert not box.meets(second), (figure.key, one, other)


def test_the_scatter_names_every_model_that_has_both_figures(report: Report) -> None:
    figure = quality_against_latency(report)
    assert figure is not None
    said = [words for words, _ in words_of(figure)]
    assert all(row.label in said for row in headline(report))
    assert figure.svg.count('class="ring') == 1


def test_too_many_intervals_are_left_out_and_not_mentioned(reports: dict[str, Report]) -> None:
    few = quality_against_latency(reports["full"])
    many = quality_against_latency(reports["crowded"])
    assert few is not None
    assert few.svg.count("whisker") == 5
    assert "95 % intervals" in few.caption
    assert many is not None
    assert "whisker" not in many.svg
    assert "interval" not in many.caption


def test_there_is_no_figure_without_something_to_compare(reports: dict[str, Report]) -> None:
    assert set(drawings(reports["only_teacher"])) == {"tokens", "spread"}
    assert "tokens" not in drawings(reports["one_length"])
    assert set(drawings(reports["sparse"])) == {"quality", "sizes", "tokens"}
    assert (
        quality_against_latency(dataclasses.replace(reports["full"], models=(), shipped={})) is None
    )


def test_longer_files_have_longer_bars(report: Report) -> None:
    figure = sizes(report)
    assert figure is not None
    rects = [n for n in ET.fromstring(figure.svg).iter("rect") if "mark" in n.attrib["class"]]
    widths = [float(n.attrib["width"]) for n in rects]
    files = [row.file_bytes or 0 for row in headline(report)]
    assert [w / widths[1] for w in widths] == pytest.approx([f / files[1] for f in files], abs=1e-3)


def test_a_histogram_has_its_marks_at_the_percentiles(report: Report) -> None:
    figure = distributions(report)
    assert figure is not None
    root = ET.fromstring(figure.svg)
    marks = [n for n in root.iter("line") if n.attrib["class"] == "quantile"]
    titles = [n.findtext("title") for n in marks]
    assert titles[:3] == [
        f"teacher PyTorch fp32: p{q} {value} ms"
        for q, value in zip((50, 90, 99), ("8.68", "9.14", "14.4"), strict=True)
    ]
    xs = [float(n.attrib["x1"]) for n in marks[:3]]
    assert xs == sorted(xs)


def test_the_parts_of_a_loss_are_drawn_only_where_there_are_several(report: Report) -> None:
    single, several = loss_curve(report.curves[0], "a"), loss_curve(report.curves[1], "b")
    assert single is not None
    assert several is not None
    assert single.svg.count("<polyline") == 1
    assert several.svg.count("<polyline") == 4


def test_a_loss_over_decades_gets_a_log_scale_and_a_diverged_one_still_draws() -> None:
    steps = tuple(range(1, 101))
    falling = Curve(
        run="distill", stage="a", points=Points(step=steps, loss=tuple(100 / s**2 for s in steps))
    )
    drawn = loss_curve(falling, "a")
    assert drawn is not None
    assert "loss (log scale)" in drawn.svg
    gone = Curve(run="distill", stage="a", points=Points(step=steps, loss=(1.0, 2.0, *[None] * 98)))
    assert loss_curve(gone, "a") is not None
    lost = Curve(run="distill", stage="a", points=Points(step=steps, loss=(None,) * 100))
    assert loss_curve(lost, "a") is None


def test_the_stages_of_a_run_follow_each_other_on_one_axis(report: Report) -> None:
    stages = (
        Curve(run="distill", stage="a", points=Points(step=(1, 100), loss=(1.0, 0.5))),
        Curve(run="distill", stage="b", evals=Evals(step=(50, 100), metric=(0.5, 0.6))),
    )
    figure = quality_by_step(dataclasses.replace(report, curves=stages))
    assert figure is not None
    titles = re.findall(r"<title>([^<]*steps[^<]*)</title>", figure.svg)
    assert titles == [
        "distilled student after 150 steps: 0.5000",
        "distilled student after 200 steps: 0.6000",
    ]


def test_the_layer_map_joins_exactly_the_pairs(report: Report) -> None:
    figure = layer_map(report)
    assert figure is not None
    assert figure.svg.count('class="link') == 4
    assert figure.svg.count("<rect") == 7 + 4


def test_colours_tell_roles_apart_and_stay_with_their_model(report: Report) -> None:
    classes = series(headline(report))
    assert len(set(classes.values())) == 5
    fewer = series([row for row in headline(report) if row.model.role != "baseline"])
    assert all(classes[name] == css for name, css in fewer.items())


def test_ticks_are_round_and_inside() -> None:
    assert Linear(0.843, 0.924, 300, 20).ticks() == pytest.approx([0.86, 0.88, 0.9, 0.92])
    assert Log(0.5, 13, 0, 400).ticks() == pytest.approx([0.5, 1, 2, 5, 10])
    assert Linear(3, 3, 0, 10).at(3) == 5
    assert [tick_label(v) for v in (0.5, 2, 1500, 20000)] == ["0.5", "2", "1.5k", "20k"]


def test_a_long_series_is_thinned_to_means_without_gaps() -> None:
    pairs = thinned([float(n) for n in range(1000)], 100)
    assert len(pairs) == 100
    assert pairs[0] == (5, 4.5)
    assert thinned([None, 2.0, None], 10) == [(1, 2.0)]


def test_words_and_attributes_are_escaped() -> None:
    hostile = "</text><script>\"'&\x00"
    for markup in (text(1, 2, hostile), element("g", {"class": hostile})):
        root = ET.fromstring(markup)
        assert len(list(root.iter())) == 1


def test_the_best_evaluation_of_an_error_is_the_lowest(report: Report) -> None:
    curve = report.curves[0]
    values = tuple(v for v in curve.evals.metric if v is not None)
    assert len(set(values)) > 1
    for metric, best in (("accuracy", max(values)), ("mse", min(values))):
        drawn = loss_curve(curve, "a", metric)
        assert drawn is not None
        assert f"of {len(curve.evals.metric)} evaluations {best:.4f}" in drawn.caption


def test_the_caption_says_which_way_is_better(report: Report) -> None:
    task = dataclasses.replace(report.task, metric="perplexity")
    up = quality_against_latency(report)
    down = quality_against_latency(dataclasses.replace(report, task=task))
    assert up is not None
    assert down is not None
    assert up.caption.startswith("Up and to the left is better")
    assert down.caption.startswith("Down and to the left is better")
