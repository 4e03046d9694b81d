import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.data.readers import format_of, read_lines, read_table
from toolchain.errors import UsageError

ROWS = [
    ('a "quoted" word', "x"),
    ('" an open quote', "y"),
    ("caf\u00e9, \u65e5\u672c \u2028 one line", "x"),
    ("it's, well", "y"),
]


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    kind = format_of(path)
    if kind == ".parquet":
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), path)
        return path
    if kind == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    elif kind == ".csv":
        escaped = [(text.replace('"', '""'), label) for text, label in rows]
        lines = ["text,label", *(f'"{text}",{label}' for text, label in escaped)]
    else:
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.tsv", "a.tsv.gz", "a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet", "A.TSV"],
)
def test_every_format_gives_back_its_rows(tmp_path: Path, name: str) -> None:
    table = read_table(_write(tmp_path / name, ROWS))
    assert table.header == ("text", "label")
    assert table.values("text") == [text for text, _ in ROWS]
    assert table.values("label") == [label for _, label in ROWS]
    assert len(table) == len(ROWS)


def test_plain_and_gzipped_content_have_one_digest(tmp_path: Path) -> None:
    plain = read_table(_write(tmp_path / "a.tsv", ROWS))
    zipped = read_table(_write(tmp_path / "b.tsv.gz", ROWS))
    assert plain.digest == zipped.digest


field = st.text(
    st.one_of(
        st.sampled_from("\"', ;\\|#"),
        st.characters(blacklist_characters="\t\n\r", blacklist_categories=("Cs",)),
    ),
    min_size=1,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(field, min_size=1, max_size=5))
def test_any_text_without_tabs_survives_a_tsv(tmp_path: Path, texts: list[str]) -> None:
    rows = [(text, "x") for text in texts]
    assert read_table(_write(tmp_path / "a.tsv", rows)).values("text") == texts


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(field.map(lambda text: text + "\n" + text), min_size=1, max_size=3))
def test_any_text_survives_a_csv_with_its_line_feeds(tmp_path: Path, texts: list[str]) -> None:
    rows = [(text, "x") for text in texts]
    table = read_table(_write(tmp_path / "a.csv", rows))
    assert table.values("text") == texts
    assert list(table.places) == [2 + 2 * i for i in range(len(texts))]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbftext\tlabel\r\none\tx\r\ntwo\ty\r\n\r\n")
    table = read_table(path)
    assert table.header == ("text", "label")
    assert table.values("label") == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "a.tsv: the file is empty"),
        ("a.tsv", b"\n\n", "a.tsv: the file is empty"),
        ("a.tsv", b"text\tlabel\n", "a.tsv: a header but no rows"),
        ("a.tsv", b"text\tlabel\na\tx\nb\n", "a.tsv:3: 1 field, expected 2 (text, label)"),
        ("a.tsv", b"text\tlabel\na\tx\n\nb\ty\n", "a.tsv:3: 1 field, expected 2"),
        ("a.tsv", b"text\tlabel\na\tb\tx\n", "a.tsv:2: 3 fields, expected 2"),
        ("a.tsv", b"text\ttext\na\tx\n", "a.tsv:1: the header names column 'text' twice"),
        ("a.tsv", b"text\tlabel\na\tx\nb\xff\ty\n", "a.tsv:3: byte 0xff is not valid UTF-8"),
        ("a.tsv", "text\tlabel\na\tx\n".encode("utf-16"), "a.tsv:1: byte 0xff is not valid UTF-8"),
        ("a.tsv.gz", b"text\tlabel\n", "a.tsv.gz: not a whole gzip file"),
        ("a.csv", b'text,label\na,x\n"b,y\n', "a.csv:3: not valid CSV: unexpected end of data"),
        ("a.csv", b'text,label\n"a"b,x\n', "a.csv:2: not valid CSV: ',' expected after '\"'"),
        ("a.csv", b"text,label\na,b,x\n", "a.csv:2: 3 fields, expected 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl:2: not valid JSON: Expecting value"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n["a"]\n', "a.jsonl:2: a JSON list, expected an object"),
        ("a.jsonl", b"7\n", "a.jsonl:1: a JSON number or boolean, expected an object"),
        ("a.parquet", b"", "a.parquet: the file is empty"),
        ("a.parquet", b"PAR1 no", "a.parquet: not a Parquet file"),
        ("a.xlsx", b"x", "a.xlsx: unknown format of data file, expected .tsv, .csv"),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_a_gzip_file_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = _write(tmp_path / "a.tsv.gz", ROWS).read_bytes()
    for length in range(1, len(whole)):
        path = tmp_path / "cut.tsv.gz"
        path.write_bytes(whole[:length])
        with pytest.raises(
            UsageError, match=r"cut.tsv.gz: (the gzip file is cut|not a whole gzip)"
        ):
            read_table(path)


def test_a_missing_json_key_is_found_in_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"txt": "b", "label": 0}\n')
    with pytest.raises(UsageError, match=r"a.jsonl:2: no key 'text', found keys: txt, label"):
        read_table(path).values("text")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no.tsv: cannot be read: No such file"):
        read_lines(tmp_path / "no.tsv")
