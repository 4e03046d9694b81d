"""Questions about texts: what is read, what is refused, and how long texts become windows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from toolchain.data.sources import Split, TaskData
from toolchain.data.tokenizing import Rows, tokenize_split
from toolchain.data.windows import Best, best_of, replies_of, window, windows
from toolchain.errors import UsageError

Put = Callable[[str, str | bytes], Path]
Load = Callable[..., TaskData]

CONTEXT = "Das Café in Łódź öffnet um 8 Uhr."


def row(question: str, context: str, *answers: str) -> dict[str, object]:
    return {
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": [context.index(a) for a in answers]},
    }


ROWS = [
    row("Where is it?", CONTEXT, "Łódź", "in Łódź"),
    row("When does it open?", CONTEXT, "um 8 Uhr"),
    row("Who runs it?", CONTEXT),
]


def lines(*rows: object) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def test_squads_flat_form_says_by_its_columns_what_it_is(put: Put, load: Load) -> None:
    put("train.jsonl", lines(*ROWS))
    put("dev.jsonl", lines(*ROWS[:2]))
    task = load()
    assert (task.task, task.kind, task.labels, task.unanswered) == ("qa", "pair", (), True)
    assert task.of_tokens
    assert task.train.texts[0] == "Where is it?"
    assert task.train.texts_b == (CONTEXT,) * 3
    assert task.train.answers == (((12, "Łódź"), (9, "in Łódź")), ((24, "um 8 Uhr"),), ())
    put("train.jsonl", lines(*ROWS[:2]))
    assert not load().unanswered


def test_other_forms_hold_the_same(put: Put, load: Load, tmp_path: Path) -> None:
    put("train.jsonl", lines(*ROWS))
    put("dev.jsonl", lines(*ROWS[:2]))
    expected = load()
    nested = [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": str(i),
                    "question": r["question"],
                    "is_impossible": not r["answers"]["text"],  # type: ignore[index]
                    "plausible_answers": [],
                    "answers": [
                        {"text": t, "answer_start": s}
                        for t, s in zip(*r["answers"].values(), strict=True)  # type: ignore[attr-defined]
                    ],
                }
                for i, r in enumerate(ROWS)
            ],
        }
    ]
    document = {"version": "2.0", "data": [{"title": "x", "paragraphs": nested}]}
    for name, content in {
        "nested": json.dumps(document),
        "list": json.dumps(ROWS),
        "flat": json.dumps({"data": ROWS}),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.json").write_text(content, encoding="utf-8")
        (folder / "dev.jsonl").write_text(lines(*ROWS[:2]), encoding="utf-8")
        assert load(folder).train == replace_file(expected, folder / "train.json")
    csv = "question,context,answers\n" + "".join(
        ",".join('"{}"'.format(str(v).replace('"', '""')) for v in cells) + "\n"
        for cells in ((r["question"], r["context"], json.dumps(r["answers"])) for r in ROWS)
    )
    put("train.csv", csv)
    (tmp_path / "data" / "train.jsonl").unlink()
    found = load().train
    assert (found.answers, found.texts) == (expected.train.answers, expected.train.texts)


def replace_file(task: TaskData, file: Path) -> Split:
    return replace(task.train, file=str(file))


def test_a_saved_data_set_holds_the_same(tmp_path: Path, put: Put, load: Load) -> None:
    datasets = pytest.importorskip("datasets")
    put("train.jsonl", lines(*ROWS))
    put("dev.jsonl", lines(*ROWS[:2]))
    expected = load().train
    flat = datasets.Dataset.from_list(ROWS)
    listed = datasets.Dataset.from_list(
        [
            {**r, "answers": [{"text": t, "answer_start": s} for s, t in found]}
            for r, found in zip(ROWS, expected.answers or (), strict=True)
        ]
    )
    for name, split in (("flat", flat), ("listed", listed)):
        where = str(tmp_path / name)
        datasets.DatasetDict(train=split, validation=split).save_to_disk(where)
        found = load(where)
        assert found.task == "qa"
        assert found.train.answers == expected.answers


def test_columns_of_other_names_are_named(put: Put, load: Load) -> None:
    other = [{"q": r["question"], "passage": r["context"], "a": r["answers"]} for r in ROWS]
    put("train.jsonl", lines(*other))
    put("dev.jsonl", lines(*other))
    task = load(task="qa", text="q", text_b="passage", answer="a")
    assert task.train.answers[0][0] == (12, "Łódź")  # type: ignore[index]
    with pytest.raises(UsageError, match=r"no such column, expected data.columns.text or"):
        load(task="qa", text="q", text_b="passage", label="a")


def test_questions_about_one_text_are_held_out_together(put: Put, load: Load) -> None:
    many = [row(f"question {i}?", f"text {i // 4} says yes", "yes") for i in range(160)]
    task = load(put("all.jsonl", lines(*many)))
    sides = [set(split.texts_b or ()) for split in (task.train, task.dev)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": ["8"], "answer_start": [3]}, "'8' does not stand at character 3 of the context"),
        ({"text": ["8"], "answer_start": [-6]}, "'8' does not stand at character -6"),
        # Where bytes were counted: two letters of two bytes each stand before.
        ({"text": ["8 Uhr"], "answer_start": [31]}, "answer_start counts characters from 0"),
        ({"text": ["8"], "answer_start": ["27"]}, "answer_start is '27', expected a number"),
        ({"text": ["8"], "answer_start": []}, "has 1 texts but 0 of answer_start"),
        ({"text": [" "], "answer_start": [3]}, "holds an answer without text"),
        ({"text": "8", "answer_start": 27}, "has the keys text, answer_start, expected {"),
        (["8"], "answers is list, expected {"),
        (None, "answers is NoneType, expected {"),
        ("8", "answers is int, expected {"),
        ("um 8 Uhr", "answers is text that is not JSON"),
    ],
)
def test_answers_that_are_not_where_they_should_be_are_refused(
    answers: object, said: str, put: Put, load: Load
) -> None:
    put("train.jsonl", lines(ROWS[0], {**ROWS[1], "answers": answers}))
    put("dev.jsonl", lines(*ROWS))
    with pytest.raises(UsageError) as raised:
        load()
    assert said in str(raised.value)
    assert "train.jsonl:2: answers" in str(raised.value)


def test_a_train_split_without_any_answer_and_empty_texts_are_refused(put: Put, load: Load) -> None:
    put("train.jsonl", lines(ROWS[2]))
    put("dev.jsonl", lines(*ROWS))
    with pytest.raises(UsageError, match="no question of train has an answer"):
        load()
    put("train.jsonl", lines({**ROWS[2], "context": " "}))
    with pytest.raises(UsageError, match=r"train.jsonl:1: context is empty, expected text"):
        load()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "row 1: expected an object"),
        ("{}", "expected a list of objects"),
        ("[", "not valid JSON"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{}]}]}]}', "question 1: not nested"),
        ('{"data": [{"paragraphs": 3}]}', "question 1: not nested"),
        ("[]", "a header but no rows"),
    ],
)
def test_documents_of_another_form_are_refused(
    content: str, said: str, put: Put, load: Load
) -> None:
    with pytest.raises(UsageError) as raised:
        load(put("all.json", content), task="qa")
    assert said in str(raised.value)


WORDS = ["where", "is", "it", "?", "the", "cafe", "in", "lodz", "stands", "at", "a", "corner"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """WordPiece that strips accents, of some words, letters and signs."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{c}" for c in letters), "你", "好", "😀", "."]
    vocab = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *pieces])
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(path))


def rows_of(
    tokenizer: PreTrainedTokenizerFast, load: Load, put: Put, rows: list, max_tokens: int
) -> Rows:
    put("train.jsonl", lines(*rows))
    put("dev.jsonl", lines(*rows))
    task = load(task="qa")
    return tokenize_split(tokenizer, task.train, task, max_tokens=max_tokens)


def spelled(rows: Rows, index: int) -> str:
    """The characters that the two tokens to learn of a window stand for."""
    asked = rows.asked
    assert asked is not None
    begin, end = rows.labels[index]  # type: ignore[misc]
    offsets = asked.offsets[index]
    return asked.contexts[asked.questions[index]][offsets[begin, 0] : offsets[end, 1]]


@pytest.mark.parametrize(
    "answer", ["Café", "café", "Łódź", "你好", "好", "😀", "e\u0301t", "8 Uhr", "Das"]
)
def test_ends_are_the_characters_of_the_answer_whatever_their_bytes(
    answer: str, tokenizer: PreTrainedTokenizerFast, load: Load, put: Put
) -> None:
    context = "Das Café. é café \u0130 in Łódź 你好 😀 e\u0301t um 8 Uhr"
    rows = rows_of(tokenizer, load, put, [row("where is it?", context, answer)], 128)
    assert spelled(rows, 0) == answer
    assert rows.labels[0][0] > 0


@pytest.mark.parametrize("answer", ["Café", "Łódź", "你好", "好", "😀", "8 Uhr", "ffi"])
@pytest.mark.parametrize("trims", [False, True])
def test_characters_that_are_several_tokens_are_found_whole(answer: str, trims: bool) -> None:
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *sorted(letters)])}
    raw = Tokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trims, add_prefix_space=False
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")
    context = "Das Café. é in Łódź 你好 😀 um 8 Uhr ffi"
    found = ((context.index(answer), answer),)
    made = windows(tokenizer, ["Wo?"], [context], [found], max_tokens=90, unanswered=False)
    assert len(made.features) == 1
    begin, end = made.ends[0]
    assert end - begin + 1 == len(answer.encode())
    figures = np.zeros((len(made.asked.offsets[0]), 2))
    figures[begin, 0] = figures[end, 1] = 1
    best = best_of(figures, made.asked.offsets[0])
    assert replies_of(made.asked, [best]) == [answer]


def test_long_contexts_are_read_in_windows_that_overlap(
    tokenizer: PreTrainedTokenizerFast, load: Load, put: Put
) -> None:
    context = " ".join([*["the"] * 30, "lodz", *["a"] * 30])
    rows = rows_of(tokenizer, load, put, [row("where is it?", context, "lodz")], 20)
    assert (rows.truncated, rows.task) == (1, "qa")
    asked = rows.asked
    assert asked is not None
    assert set(rows.lengths[:-1]) == {20}
    assert rows.lengths[-1] <= 20
    assert asked.questions.tolist() == [0] * len(rows)
    # Each window holds question and frame, and 13 tokens of the text, a third of them shared.
    starts = [int(offsets[offsets >= 0].min()) for offsets in asked.offsets]
    places = [context[:start].count(" ") for start in starts]
    assert places == [0, 9, 18, 27, 36, 45, 54][: len(places)]
    covered = {
        i
        for offsets in asked.offsets
        for start, end in offsets[offsets[:, 0] >= 0]
        for i in range(start, end)
    }
    assert covered == {i for i, c in enumerate(context) if c != " "}
    holding = [i for i in range(len(rows)) if spelled(rows, i) == "lodz"]
    assert holding == [i for i, place in enumerate(places) if place <= 30 < place + 13]
    others = [i for i in range(len(rows)) if i not in holding]
    assert others
    assert all(rows.labels[i].tolist() == [0, 0] for i in others)


def test_an_answer_cut_by_a_window_is_none_of_it(
    tokenizer: PreTrainedTokenizerFast, load: Load, put: Put
) -> None:
    answer = "lodz at a corner"
    context = " ".join([*["the"] * 11, answer, *["a"] * 9])
    rows = rows_of(tokenizer, load, put, [row("where is it?", context, answer)], 20)
    found = [spelled(rows, i) if rows.labels[i][0] else "" for i in range(len(rows))]
    assert found == ["", answer, ""]


def test_a_question_takes_half_of_a_window_at_most(
    tokenizer: PreTrainedTokenizerFast, load: Load, put: Put
) -> None:
    asked = row("where " * 50, "the cafe in lodz stands at a corner", "lodz")
    rows = rows_of(tokenizer, load, put, [asked], 15)
    first = tokenizer.decode(rows.features[0]["input_ids"])
    assert (
        first == "[CLS] where where where where where where [SEP] the cafe in lodz stands at [SEP]"
    )
    assert rows.features[0]["token_type_ids"].tolist() == [0] * 8 + [1] * 7
    assert rows.truncated == 1
    with pytest.raises(UsageError, match="too few for a question and a context"):
        rows_of(tokenizer, load, put, [asked], 3)


def test_window_keeps_the_order_of_tokens_whoever_stands_first() -> None:
    # As a tokenizer with its special tokens at the end would have it.
    sides = [0, 0, None, 1, 1, 1, 1, 1, None, None]
    assert window(sides, 20) == [list(range(10))]
    assert window(sides, 8) == [[0, 1, 2, 3, 4, 5, 8, 9], [0, 1, 2, 5, 6, 7, 8, 9]]
    assert window([None, 0, None, None], 8) == [[0, 1, 2, 3]]


def test_the_best_span_is_found_among_all_of_thirty_tokens() -> None:
    generator = np.random.default_rng(0)
    offsets = np.array([(-1, -1)] * 3 + [(2 * i, 2 * i + 1) for i in range(60)] + [(-1, -1)])
    for _ in range(20):
        ends = generator.normal(size=(64, 2)).astype(np.float32)
        expected = max(
            (float(ends[i, 0]) + float(ends[j, 1]), int(offsets[i, 0]), int(offsets[j, 1]))
            for i in range(3, 63)
            for j in range(i, min(63, i + 30))
        )
        best = best_of(ends, offsets)
        assert best[:3] == pytest.approx(expected)
        assert best.none == pytest.approx(float(ends[0].sum()))
    assert best_of(ends[:3], offsets[:3]).score == -np.inf


def test_windows_compete_and_none_wins_where_it_may(tokenizer: PreTrainedTokenizerFast) -> None:
    made = windows(
        tokenizer, ["where?"], ["the cafe in lodz " * 9], [()], max_tokens=24, unanswered=True
    )
    asked = made.asked
    assert len(made.features) > 2
    found = [Best(1.0, 0, 3, 5.0), Best(3.0, 4, 8, 2.5), *[Best(0.0, 0, 3, 4.0)] * 9]
    found = found[: len(made.features)]
    # The lowest sum at the first token stands against the highest of all spans.
    assert replies_of(asked, found) == ["cafe"]
    found[1] = Best(2.4, 4, 8, 2.5)
    assert replies_of(asked, found) == [""]
    assert replies_of(replace(asked, unanswered=False), found) == ["cafe"]
