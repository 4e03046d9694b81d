from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.report.placing import Box, Point, fitted, place, spread, text_width

BOUNDS = Box(52, 26, 438, 292)
SIZE = 11.0

points = st.lists(
    st.builds(
        Point,
        st.floats(60, 430),
        st.floats(34, 284),
        st.sampled_from(["student ONNX int8", "teacher PyTorch fp32", "baseline", "x" * 90]),
        st.sampled_from([6.0, 10.0]),
    ),
    min_size=1,
    max_size=14,
)


@given(points)
@settings(max_examples=60, deadline=None)
def test_labels_cover_neither_each_other_nor_a_point_nor_the_edge(marks: list[Point]) -> None:
    labels = [label for label in place(marks, BOUNDS, SIZE) if label]
    assert len(labels) == len(marks)
    for label in labels:
        assert label.box.inside(BOUNDS)
        assert text_width(label.words, SIZE) <= label.box.right - label.box.left + 1e-6
        for mark in marks:
            reach = mark.radius
            dot = Box(mark.x - reach, mark.y - reach, mark.x + reach, mark.y + reach)
            assert not label.box.meets(dot)
    for one, other in combinations(labels, 2):
        assert not one.box.meets(other.box)


def test_a_plot_without_room_leaves_a_label_out_instead_of_overlapping() -> None:
    marks = [Point(20, 10, "a label", 4.0)] * 4
    labels = place(marks, Box(0, 0, 70, 20), SIZE)
    placed = [label.box for label in labels if label]
    assert 1 <= len(placed) < 4
    assert not any(one.meets(other) for one, other in combinations(placed, 2))


def test_a_label_is_shortened_where_all_of_it_does_not_fit() -> None:
    walls = [Point(120, y, "wall", 30.0) for y in range(30, 200, 60)]
    mark = Point(40, 100, "student-of-a-very-long-name", 5.0)
    label = place([mark, *walls], Box(0, 0, 220, 200), SIZE)[0]
    assert label is not None
    assert label.words != mark.words
    assert label.words.startswith("st")


def test_a_label_avoids_what_it_should_where_it_can() -> None:
    mark = Point(100, 100, "words", 5.0)
    line = Box(105, 0, 200, 200)
    (label,) = place([mark], Box(0, 0, 200, 200), SIZE, avoid=[line])
    assert label is not None
    assert not label.box.meets(line)


def test_a_far_label_is_marked_for_a_line_to_its_point() -> None:
    crowd = [Point(200 + 9 * n, 150, "student ONNX int8", 6.0) for n in range(8)]
    labels = place(crowd, BOUNDS, SIZE)
    assert any(label and label.far for label in labels)
    assert place(crowd[:1], BOUNDS, SIZE)[0].far is False


@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_spread_keeps_order_distance_and_bounds(wanted: list[float]) -> None:
    found = spread(wanted, 14, 0, 200)
    assert min(found) >= -1e-6
    assert max(found) <= 200 + 1e-6
    ordered = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [found[b] - found[a] for a, b in pairwise(ordered)]
    assert all(gap >= 14 - 1e-6 for gap in gaps)


def test_positions_far_enough_apart_stay_where_they_are() -> None:
    assert spread([10, 50, 30], 14, 0, 100) == [10, 50, 30]


def test_words_are_shortened_in_the_middle_until_they_fit() -> None:
    assert fitted("short", SIZE, 100) == "short"
    short = fitted("student-of-a-long-name-int8", SIZE, 100)
    assert text_width(short, SIZE) <= 100
    assert short.startswith("stude")
    assert short.endswith("int8")
    assert fitted("anything", SIZE, 1) == "\u2026"
