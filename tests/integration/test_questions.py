"""Questions about texts, their whole road: by one command, stage by stage, and what is refused.

The data are made: "set my light" asks for the one word of a text that has to do with light. A part
of the texts is longer than the model reads, a part holds no answer.
"""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tests.conftest import FILLERS, TARGET, WORDS, make_teacher
from tests.integration.test_tasks import LOOSE, STEPS, write_jsonl
from tests.unit.models import zoo
from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.data.sources import load_task
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.evaluate import evaluate
from toolchain.errors import UsageError
from toolchain.export.exporter import exporters
from toolchain.metrics import Replies
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model
from toolchain.recipe import Columns


def asked(generator: random.Random, *, none: float = 0.2) -> dict[str, object]:
    about, other = generator.sample(sorted(WORDS), 2)
    count = 70 if generator.random() < 0.1 else generator.randint(3, 9)
    words = generator.choices(FILLERS, k=count)
    words.insert(generator.randint(0, count), generator.choice(WORDS[other]))
    answers: dict[str, list[object]] = {"text": [], "answer_start": []}
    if generator.random() >= none:
        place, word = generator.randint(0, count + 1), generator.choice(WORDS[about])
        start = sum(len(w) + 1 for w in words[:place])
        words.insert(place, word)
        answers = {"text": [word], "answer_start": [start]}
    return {"question": f"set my {about}", "context": " ".join(words), "answers": answers}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("asking") / "data", asked, train=240, dev=60)


@pytest.fixture(scope="module")
def build(encoder_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run from a bare encoder."""
    out = tmp_path_factory.mktemp("asking") / "build"
    words = ["compress", "--teacher", str(encoder_folder), "--data", str(data), "-o", str(out)]
    learn = ["train.lr=3e-3", "finetune.lr=3e-3", "train.epochs=8", "finetune.epochs=30",
             "threads=1", "train.precision=fp32"]  # fmt: skip
    assert main([*words, "--layers", "2", *learn, *LOOSE, "benchmark.tokens=[8]"]) == 0
    return out


def test_every_file_of_the_road_is_there_and_the_figures_are_of_questions(
    build: Path, data: Path
) -> None:
    report = json.loads((build / "report" / "report.json").read_text())
    assert report["task"]["metric"] == "answer_f1"
    assert report["task"]["rows"] == {"train": 240, "dev": 60, "test": None}
    models = {model["name"]: model for model in report["models"]}
    task = load_task(str(data), columns=Columns(), teacher_labels=None)
    rows = tokenize_split(AutoTokenizer.from_pretrained(build), task.dev, task, max_tokens=64)
    assert len(rows) > 60
    for name in ("student-onnx", "student-int8"):
        parity = models[name]["parity"]
        assert (parity["unit"], parity["rows"]) == ("ends", 2 * len(rows))
        assert models[name]["latency"]
        assert models[name]["metric"]["rows"] == 60
    assert models["student-onnx"]["parity"]["max_abs"] <= 1e-4
    assert models["student-onnx"]["parity"]["agreement"] == 1
    assert models["teacher"]["metric"]["value"] > 0.9
    assert models["student"]["metric"]["value"] > 0.8
    assert models["student-onnx"]["metric"]["value"] == models["student"]["metric"]["value"]
    assert set(models["student"]["metric"]["others"]) == {"exact_match"}
    card = (build / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card
    assert 'tokenizer("A question?", "A text.", return_tensors="pt")' in card


def test_the_graph_has_the_names_that_transformers_gives(build: Path) -> None:
    graph = onnx.load(build / "onnx" / "model.onnx").graph
    assert [output.name for output in graph.output] == ["start_logits", "end_logits"]
    for output in graph.output:
        axes = output.type.tensor_type.shape.dim
        assert [axis.dim_param for axis in axes] == ["batch", "sequence"]
    facts = json.loads((build / ".run" / "student-onnx" / "manifest.json").read_text())["facts"]
    assert (facts["task"], facts["passes"]["first_row"]) == ("qa", 0)


def test_the_folder_is_one_of_transformers_and_a_teacher_again(build: Path) -> None:
    found = inspect(str(build))
    assert (found.task, found.has_head, found.labels, found.spec.layers) == ("qa", True, {}, 2)
    tokenizer = AutoTokenizer.from_pretrained(build)
    model = AutoModelForQuestionAnswering.from_pretrained(build).eval()
    text = "now turn the lamp to less music"
    batch = tokenizer("set my light", text, return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**batch)
    begin, end = (int(x[0].argmax()) for x in (output.start_logits, output.end_logits))
    assert text[offsets[begin][0] : offsets[end][1]] == "lamp"
    tasks = transformers.pipelines.SUPPORTED_TASKS
    if "question-answering" in tasks:
        ask = transformers.pipeline("question-answering", model=str(build), device="cpu")
        assert ask(question="set my light", context=text)["answer"] == "lamp"


def test_the_bundle_answers_with_places_and_reads_long_texts_as_evaluation_does(
    build: Path, data: Path, tmp_path: Path
) -> None:
    assert selftest(build / "bundles" / "host") == []
    folder = tmp_path / "bundle"
    exported = str(build / ".run" / "student-onnx")
    assert main(["bundle", exported, "--data", str(data), "-o", str(folder)]) == 0
    filler = "in my room now " * 20
    texts = (
        "\u4f60\u597d, can you set the b\u00fclb to music",
        f"{filler}the radio {filler}",
        f"{filler}turn the glow and the radio {filler}",
    )
    task = load_task(str(data), columns=Columns(), teacher_labels=None)
    asked = replace(task.dev, texts=("set my light",) * 3, texts_b=texts, answers=((),) * 3)
    rows = tokenize_split(AutoTokenizer.from_pretrained(build), asked, task, max_tokens=64)
    assert len(rows) > 3
    outputs = evaluate(load_model(build, "qa"), rows).outputs
    assert isinstance(outputs, Replies)
    ask = [sys.executable, "-I", str(folder / "answer.py"), "--json"]
    pairs = [word for text in texts for word in ("set my light", text)]
    ran = subprocess.run([*ask, *pairs], capture_output=True, check=True)
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert tuple(one["answer"] for one in told) == outputs.texts
    assert told[0]["answer"] == "b\u00fclb"
    for one, text in zip(told, texts, strict=True):
        assert text[one["start"] or 0 : one["end"] or 0] == one["answer"]


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_of_fixed_lengths_answers_as_one_of_onnx(
    build: Path, data: Path, tmp_path: Path
) -> None:
    for package in exporters.get("litert").packages:
        pytest.importorskip(package, reason="the extra [litert] is not installed")
    target, exported = tmp_path / "phone.yaml", tmp_path / "exported"
    target.write_text(TARGET.format(name="phone", format="litert"))
    student = str(build / ".run" / "distilled")
    assert main(["export", student, "--format", "litert", "-o", str(exported)]) == 0
    proof = ["--against", student, "--data", str(data), "-o", str(tmp_path / "proof")]
    assert main(["verify", str(exported), *proof]) == 0
    text = "in my room now " * 20 + "the radio and turn the glow"
    told = []
    for model, device in ((exported, str(target)), (build / ".run" / "student-onnx", "host")):
        bundle = tmp_path / f"bundle-{len(told)}"
        words = ["bundle", str(model), "--data", str(data), "--target", device]
        assert main([*words, "-o", str(bundle)]) == 0
        assert selftest(bundle) == []
        ask = [sys.executable, "-I", str(bundle / "answer.py"), "set my light", text]
        told.append(subprocess.run(ask, capture_output=True, check=True, text=True).stdout)
    assert told[0] == told[1]
    assert told[0].startswith("glow\t")


def test_the_stages_one_after_another(
    build: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, exported = build / ".run" / "distilled", build / ".run" / "student-onnx"
    int8, where = tmp_path / "int8", ["--data", str(data)]
    assert main(["quantize", str(exported), "-o", str(int8)]) == 0
    proof = ["--against", str(student), "-o", str(tmp_path / "proof")]
    assert main(["verify", str(exported), *where, *proof]) == 0, capsys.readouterr().err
    assert "ends" in capsys.readouterr().err
    timed = ["benchmark", str(exported), str(int8), "--seconds", "0.02", "-o", str(tmp_path / "t")]
    assert main([*timed, *where]) == 0
    bundle = tmp_path / "bundle"
    assert main(["bundle", str(int8), *where, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    about = json.loads((bundle / "bundle.json").read_text())
    assert (about["task"], about["program"]["script"], about["unanswered"]) == (
        "qa", "answer.py", True,
    )  # fmt: skip


def test_precisions_that_look_at_texts_read_windows(
    build: Path, data: Path, tmp_path: Path
) -> None:
    exported, out = build / ".run" / "student-onnx", tmp_path / "out"
    words = ["quantize", str(exported), "--precision", "int8_mixed", "--data", str(data)]
    assert main([*words, "-o", str(out)]) == 0
    proof = ["--against", str(exported), "--data", str(data), "-o", str(tmp_path / "proof")]
    assert main(["verify", str(out), *proof]) == 0


def test_a_reader_is_trained_and_distilled_by_stages(
    encoder_folder: Path, data: Path, tmp_path: Path
) -> None:
    common = ["--data", str(data), *STEPS]
    teacher, student, out = (str(tmp_path / n) for n in ("teacher", "student", "out"))
    assert main(["finetune", "--teacher", str(encoder_folder), "-o", teacher, *common]) == 0
    shape = ["--data", str(data), "--layers", "2", "-o", student]
    assert main(["design", "--teacher", teacher, *shape]) == 0
    ends = ["--teacher", teacher, "--student", student, "-o", out]
    assert main(["distill", *ends, "--method", "kd+minilm_v2", *common]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertForQuestionAnswering"
    ]


METHODS = ["tinybert", "annealing_kd", "cofi", "theseus", "mt_bert", "tmkd", "diito", "ckd", "dkd"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_every_kind_train(method: str, build: Path, data: Path, tmp_path: Path) -> None:
    teacher = build / ".run" / "teacher"
    more = []
    if method in ("mt_bert", "tmkd"):
        other = tmp_path / "other"
        make = ["--teacher", str(teacher), "--data", str(data), "--layers", "3"]
        assert main(["design", *make, "-o", str(other)]) == 0
        more = [f"teachers=[{other}]"]
    out = tmp_path / "out"
    # Stages that copy the teacher say themselves what becomes of it.
    shape = [] if method in ("theseus", "cofi") else ["--layers", "2"]
    start = tmp_path / "start"
    common = ["--teacher", str(teacher), "--data", str(data), "--method", method]
    assert main(["design", *common, *shape, *more, "-o", str(start)]) == 0
    asks = [*common, *more, "--student", str(start), "-o", str(out), "--max-steps", "2"]
    assert main(["distill", *asks, "threads=1"]) == 0
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["rows"] > 240


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "logit_std"], "needs equally many outcomes in every row"),
        (
            ["metric=accuracy"],
            "metric accuracy does not fit the task qa, expected one of answer_f1",
        ),
        (["tokenizer=inside"], "qa answers token by token"),
        (["data.max_tokens=65"], "the teacher has 64 positions"),
        (["placement.teacher=streamed"], "compares where answers begin and end"),
        (["data.task=classify"], "lacks a label column"),
    ],
)
def test_what_cannot_be_is_refused_before_any_weight_is_loaded(
    words: list[str], said: str, build: Path, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    teacher = str(build / ".run" / "teacher")
    asks = ["compress", "--teacher", teacher, "--data", str(data), "--dry-run", "--layers", "2"]
    assert main([*asks, "-o", str(tmp_path / "out"), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_models_of_other_tasks_other_tokens_and_decoders_are_refused(
    build: Path, data: Path, teacher_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refused(*words: str) -> str:
        assert main(list(words)) == 2
        return " ".join(capsys.readouterr().err.split())

    out = str(tmp_path / "out")
    common = ["--data", str(data), "-o", out]
    ask = ["compress", *common, "--dry-run"]
    assert "its head is for classify" in refused(*ask, "--teacher", str(teacher_folder))
    classify = ["distill", "--teacher", str(build), "--student", str(teacher_folder)]
    assert "a model for classify with 3 classes" in refused(*classify, *common)
    decoder = zoo.save(zoo.make("llama", "encode"), tmp_path / "decoder")
    assert "llama models have no head for qa" in refused(*ask, "--teacher", str(decoder))
    other = make_teacher(tmp_path / "other", head=False)
    words = (other / "vocab.txt").read_text().split()
    words[5], words[9] = words[9], words[5]
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(other / "vocab.txt")).save_pretrained(other)
    transformers.BertForQuestionAnswering(
        transformers.BertConfig.from_pretrained(other)
    ).save_pretrained(other)
    said = refused(*ask, "--teacher", str(build), f"student.path={other}")
    assert "another tokenizer than the student: it reads a text in other windows" in said


def test_a_head_of_other_rows_is_refused(tmp_path: Path) -> None:
    folder = make_teacher(tmp_path / "odd", head=False)
    config = transformers.BertConfig.from_pretrained(folder, num_labels=3)
    transformers.BertForTokenClassification(config).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    written["architectures"] = ["BertForQuestionAnswering"]
    (folder / "config.json").write_text(json.dumps(written))
    path = folder / "model.safetensors"
    tensors = {k.replace("classifier.", "qa_outputs."): v for k, v in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UsageError, match="its head for questions has 3 rows, expected 2"):
        inspect(str(folder))
