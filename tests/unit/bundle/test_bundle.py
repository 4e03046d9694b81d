"""What a bundle holds and says, and what is refused while making one."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import AutoTokenizer

from toolchain.bundle.about import REQUIRES
from toolchain.bundle.assets.classify import Classifier
from toolchain.bundle.bundle import build
from toolchain.bundle.check import selftest
from toolchain.bundle.engines import ENGINES
from toolchain.bundle.golden import golden_rows, tricky_rows
from toolchain.errors import IntegrityError, UsageError
from toolchain.measurement import Load, Measurement, Metric
from toolchain.target import load_target

METRIC = Metric(name="accuracy", value=0.9, split="dev", rows=872, ci95=(0.88, 0.92), kept=0.98)
MEASUREMENT = Measurement(
    model="int8",
    target="host",
    fidelity="measured",
    runtime="onnxruntime",
    threads=1,
    load=Load(tokens="task"),
    samples_ns=(2_000_000,) * 50,
    round_sizes=(25, 25),
)


def built(workshop, out: Path, **changed: Any) -> Path:
    out.mkdir(exist_ok=True)
    build(out, **workshop.arguments(**changed))
    return out


def test_a_bundle_holds_all_that_runs_there(fp32) -> None:
    assert sorted(fp32.manifest()["files"]) == [
        "LICENSES/teacher.txt",
        "README.md",
        "bundle.json",
        "classify.py",
        "golden.jsonl",
        "model.onnx",
        "requirements.txt",
        "selftest.py",
        "tokenizer.json",
        "vocab.txt",
    ]
    assert (fp32.folder / "LICENSES" / "teacher.txt").read_text() == "Apache-2.0"


def test_the_requirements_are_three_with_lower_bounds(fp32) -> None:
    lines = (fp32.folder / "requirements.txt").read_text().splitlines()
    onnx = ENGINES["onnx"]
    asked = {onnx.requirement: onnx.minimum, **REQUIRES}
    assert lines == [f"{name}>={bound}" for name, bound in asked.items()]
    assert "onnxruntime>=1.22.1" in lines
    assert len(lines) == 3


def test_bundle_json_says_what_the_scripts_and_a_reader_need(fp32) -> None:
    about = fp32.about()
    assert about["labels"] == ["negative", "positive"]
    assert (about["kind"], about["max_tokens"], about["precision"]) == ("single", 24, "fp32")
    assert about["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert about["output"] == "logits"
    assert about["tolerances"] == {"max_abs": 1e-4}
    assert about["runtime"]["threads"] == 4
    assert about["model"]["sha256"] == fp32.manifest()["files"]["model.onnx"]
    assert about["model"]["opset"] == 17
    assert about["lineage"] == {"teacher": "a teacher", "recipe": "0123abcd"}


def test_golden_rows_are_the_tasks_own_and_many_tricky_ones(fp32) -> None:
    rows = fp32.golden()
    texts = [row["text"] for row in rows]
    assert len(rows) >= 32
    assert texts[:4] == [
        "the film is good",
        "a bad film",
        "it is not great !",
        "the film and the cafe .",
    ]
    assert "" in texts
    for what in ("\u00e9", "\u0301", "\U0001f600", "\u4f60", "\x00", "\u2028", "[SEP]"):
        assert any(what in text for text in texts), what
    assert {row["label"] for row in rows} == {"negative", "positive"}


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_long_golden_rows_are_cut_as_transformers_cuts_them(fp32, pair, workshop, kind) -> None:
    rows = (pair if kind == "pair" else fp32).golden()
    reference = AutoTokenizer.from_pretrained(workshop.tokenizer)
    long = 0
    for row in rows:
        texts = [[row[key]] for key in ("text", "text_b") if key in row]
        whole = reference(*texts)
        cut = reference(*texts, truncation=True, max_length=24, return_token_type_ids=True)
        assert row["input_ids"] == cut["input_ids"][0]
        assert row["token_type_ids"] == cut["token_type_ids"][0]
        long += len(whole["input_ids"][0]) > 24
    assert long >= 3
    assert max(len(row["input_ids"]) for row in rows) == 24


@pytest.mark.parametrize("kind", ["single", "pair"])
def test_tricky_rows_reach_both_sides_of_the_limit(kind) -> None:
    for max_tokens in (8, 128, 512):
        rows = tricky_rows(kind, max_tokens)
        assert len(rows) >= 32
        words = [sum(len(text.split()) for text in row) for row in rows]
        assert max(words) > max_tokens
        assert all(len(row) == (2 if kind == "pair" else 1) for row in rows)


def test_figures_of_this_machine_are_never_claimed_for_the_device(workshop) -> None:
    folder = workshop.make("figures", metric=METRIC, measurements=[MEASUREMENT], notes=["one more"])
    figures = json.loads((folder / "bundle.json").read_text())["figures"]
    assert figures["claim"].startswith("nothing was measured on raspberry-pi-4")
    (latency,) = figures["latency"]
    assert (latency["measured_on"], latency["fidelity"], latency["p50_ms"]) == (
        "host",
        "measured",
        2.0,
    )
    assert "samples" not in latency
    assert figures["metric"]["value"] == 0.9
    readme = (folder / "README.md").read_text()
    assert "Nothing was measured on raspberry-pi-4; figures are those of the machine" in readme
    assert "p50 2 ms (measured on host, 1 thread, 50 runs)" in readme
    assert "accuracy 0.9000 (95 % 0.8800 to 0.9200), 98.0% of the teacher's" in readme
    assert "- one more\n" in readme
    assert "- No latency is claimed here until it is measured on the device.\n" in readme


def test_a_bundle_for_this_machine_claims_its_figures(workshop) -> None:
    folder = workshop.make("host", target=load_target("host"), measurements=[MEASUREMENT])
    assert "Measured on host, which is the machine" in (folder / "README.md").read_text()
    assert selftest(folder) == []


def test_the_readme_runs_as_written(pair, fp32) -> None:
    for bundle in (fp32, pair):
        readme = (bundle.folder / "README.md").read_text()
        program = readme.split("```python\n")[1].split("```")[0]
        (bundle.folder / "own.py").write_text(program.replace('Path(".")', "Path(__file__).parent"))
        path = f"import sys; sys.path.insert(0, {str(bundle.folder)!r})\n"
        (bundle.folder / "own.py").write_text(path + (bundle.folder / "own.py").read_text())
        ran = bundle.run("own.py")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(b"('negative', 'positive') [[")


def test_int8_is_judged_by_direction_and_decisions(int8) -> None:
    assert int8.about()["tolerances"] == {
        "row_cosine": 0.99,
        "mean_cosine": 0.999,
        "close_call": 0.1,
    }
    assert "int8 is not the same to the last bit" in (int8.folder / "README.md").read_text()


def test_a_tokenizer_without_vocab_txt_is_enough(workshop, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(workshop.tokenizer, tmp_path / "tokenizer"))
    (folder / "vocab.txt").unlink()
    out = built(workshop, tmp_path / "out", tokenizer=folder)
    assert not (out / "vocab.txt").exists()


def test_another_model_than_the_verified_one_is_refused(workshop, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="the model that was verified"):
        built(workshop, tmp_path / "out", model_digest="0" * 64)


def test_a_model_of_other_labels_is_refused(workshop, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"answers \(1, 2\), expected \(1, 3\)"):
        built(workshop, tmp_path / "out", labels=("a", "b", "c"))


def test_a_model_that_answers_nan_is_refused(workshop, tmp_path: Path) -> None:
    model = workshop.save_model("nan-build", bias=float("nan"))
    with pytest.raises(IntegrityError, match=r"answers \[nan, nan\]"):
        built(workshop, tmp_path / "out", model=model)


def test_a_model_the_oldest_runtime_cannot_open_is_refused(workshop, tmp_path: Path) -> None:
    model = workshop.save_model("new-ir", ir_version=11)
    with pytest.raises(
        UsageError, match=r"IR version 11, but onnxruntime 1\.22\.1 opens at most 10"
    ):
        built(workshop, tmp_path / "out", model=model)


def test_a_model_the_target_cannot_take_is_refused(workshop, tmp_path: Path) -> None:
    model = workshop.save_model("new-opset", opset=21)
    with pytest.raises(UsageError, match="raspberry-pi-4 takes opset 20, not 21"):
        built(workshop, tmp_path / "out", model=model)


def test_a_model_with_weights_that_it_names_no_digest_of_is_refused(
    workshop, tmp_path: Path
) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(
        onnx.load(workshop.fp32), path, save_as_external_data=True, size_threshold=0, location="w"
    )
    with pytest.raises(
        UsageError, match=r"keeps weights in w, expected external\.onnx_data and its digest"
    ):
        built(workshop, tmp_path / "out", model=path)


def test_what_is_no_onnx_file_is_refused(workshop, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"garbage\xff\xff")
    with pytest.raises(UsageError, match="not an ONNX file"):
        built(workshop, tmp_path / "out", model=path)


def test_a_model_with_other_inputs_is_refused(workshop, tmp_path: Path) -> None:
    model = onnx.load(workshop.fp32)
    model.graph.input[0].name = "pixels"
    onnx.save(model, tmp_path / "pixels.onnx")
    with pytest.raises(UsageError, match="takes pixels, attention_mask, token_type_ids, expected"):
        built(workshop, tmp_path / "out", model=tmp_path / "pixels.onnx")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\\b"])
def test_a_licence_cannot_leave_its_folder(workshop, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a plain file name"):
        built(workshop, tmp_path / "out", licenses={name: "text"})


def test_a_folder_in_use_is_refused(workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="expected an empty folder"):
        built(workshop, tmp_path)


def test_pairs_and_single_texts_are_not_mixed_up(workshop, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="golden text 1: a single row, but found 2 texts"):
        built(workshop, tmp_path / "a", golden_texts=[("a", "b")])
    with pytest.raises(UsageError, match="golden text 1: a pair row, but found 1 texts"):
        built(workshop, tmp_path / "b", kind="pair")


def test_labels_must_be_told_apart(workshop, tmp_path: Path) -> None:
    for labels in (("one",), ("same", "same")):
        with pytest.raises(UsageError, match="two or more labels of different names"):
            built(workshop, tmp_path / "out", labels=labels)


def test_a_vocabulary_that_numbers_its_tokens_otherwise_is_refused(
    workshop, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(workshop.tokenizer, tmp_path / "tokenizer"))
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    lines[7], lines[8] = lines[8], lines[7]
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"vocab\.txt: 'not' is number 8|is number 7, but 8"):
        built(workshop, tmp_path / "out", tokenizer=folder)


def test_a_folder_without_tokenizer_is_refused(workshop, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"holds no tokenizer\.json"):
        built(workshop, tmp_path / "out", tokenizer=tmp_path / "none")


def test_a_shipped_tokenizer_with_other_tokens_is_refused(workshop, fp32_bundle: Path) -> None:
    folder = workshop.save_tokenizer("cased-reference", lowercase=False)
    cased = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(IntegrityError, match="as with the Hugging Face tokenizer"):
        golden_rows(cased, Classifier(fp32_bundle), [("A",)], kind="single", max_tokens=24)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_a_real_tokenizer_travels_unchanged(
    workshop, shared: Path, tmp_path: Path, kind: str
) -> None:
    folder = shared / "models" / "minilm-l6-sst2"
    data = shared / "data" / "mrpc" / "dev.tsv"
    lines = data.read_text(encoding="utf-8").split("\n")[1:33]
    rows = [tuple(line.split("\t")[:2]) for line in lines]
    out = built(
        workshop,
        tmp_path / "out",
        model=workshop.save_model("real-vocabulary", vocabulary=30522),
        tokenizer=folder,
        kind=kind,
        max_tokens=64,
        golden_texts=rows if kind == "pair" else [row[0] for row in rows],
    )
    golden = (out / "golden.jsonl").read_text(encoding="utf-8").strip().split("\n")
    assert len(golden) >= 64
