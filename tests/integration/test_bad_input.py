"""Wrong input through the command line: one sentence, the right exit code, nothing left behind.

Weights are never loaded: torch is not even imported when a command is refused.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.__main__ import main
from toolchain.artifact import file_sha256


@pytest.fixture
def teacher(teacher_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))


@pytest.fixture
def data(task_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(task_folder, tmp_path / "data"))


def compress(
    capsys: pytest.CaptureFixture[str], teacher: Path, data: Path, *more: str
) -> tuple[int, str, Path]:
    """Run compress and return its exit code, what it said, and its output folder."""
    output = teacher.parent / "out"
    words = ["compress", "--teacher", str(teacher), "--data", str(data), "-o", str(output)]
    code = main([*words, *more])
    return code, capsys.readouterr().err, output


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def header_of(folder: Path) -> tuple[bytes, int]:
    raw = (folder / "model.safetensors").read_bytes()
    return raw, struct.unpack("<Q", raw[:8])[0]


def cut_short(folder: Path) -> None:
    raw, _ = header_of(folder)
    (folder / "model.safetensors").write_bytes(raw[:-7])


def flip_in_header(folder: Path) -> None:
    raw, _ = header_of(folder)
    (folder / "model.safetensors").write_bytes(raw[:9] + b"\x00" + raw[10:])


def flip_in_weights(folder: Path) -> None:
    """Set all exponent bits of one weight, as one flipped byte can."""
    raw, length = header_of(folder)
    at = 8 + length + 3
    damaged = raw[:at] + b"\x7f" + raw[at + 1 :]
    damaged = damaged[: at - 1] + b"\x80" + damaged[at:]
    (folder / "model.safetensors").write_bytes(damaged)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def tokenizer_cut(folder: Path) -> None:
    raw = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(raw[:-9])


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()


def line(folder: Path, file: str, number: int, content: bytes) -> None:
    lines = (folder / file).read_bytes().split(b"\n")
    lines[number - 1] = content
    (folder / file).write_bytes(b"\n".join(lines))


TEACHERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", shutil.rmtree, "no such folder"),
    ("empty", lambda f: (shutil.rmtree(f), f.mkdir()), "the folder is empty"),
    ("no config", lambda f: (f / "config.json").unlink(), "no config.json"),
    ("config not json", lambda f: (f / "config.json").write_text("{"), "not JSON"),
    (
        "unknown family",
        lambda f: edit_config(f, model_type="t5"),
        "model_type 't5' is not supported",
    ),
    ("code of its own", lambda f: edit_config(f, auto_map={"AutoModel": "x.Y"}), "code of its own"),
    ("heads", lambda f: edit_config(f, num_attention_heads=5), "5 heads do not divide"),
    ("layers", lambda f: edit_config(f, num_hidden_layers=9), "the weights lack"),
    ("width", lambda f: edit_config(f, hidden_size=64), "has shape [32, 32]"),
    ("classes", lambda f: edit_config(f, id2label={"0": "a"}), "names 1 classes, the head has 3"),
    ("pickle", only_pickle, "only pickled weights (pytorch_model.bin)"),
    ("cut short", cut_short, "cut short"),
    ("flipped header", flip_in_header, "header of model.safetensors is damaged"),
    ("flipped weights", flip_in_weights, "values that are not finite"),
    ("tokenizer cut", tokenizer_cut, "tokenizer.json is not JSON"),
    (
        "tokenizer of nothing",
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "tokenizer.json holds no model",
    ),
    ("no tokenizer", no_tokenizer, "no tokenizer.json or vocab.txt"),
    (
        "other names",
        lambda f: edit_config(f, id2label={"0": "x", "1": "y", "2": "z"}),
        "cannot be reconciled",
    ),
]


@pytest.mark.parametrize(
    ("damage", "sentence"), [c[1:] for c in TEACHERS], ids=[c[0] for c in TEACHERS]
)
def test_a_teacher_that_cannot_be_used_is_refused(
    damage: Callable[[Path], object],
    sentence: str,
    teacher: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(teacher)
    code, said, output = compress(capsys, teacher, data)
    assert code == 2
    assert sentence in said
    assert not output.exists()


def test_one_flipped_bit_in_the_hubs_cache_is_found(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = teacher / "model.safetensors"
    blob = teacher.parent / file_sha256(weights)
    weights.rename(blob)
    weights.symlink_to(blob)
    assert compress(capsys, teacher, data, "--dry-run")[0] == 0
    raw = bytearray(blob.read_bytes())
    raw[-5] ^= 1
    blob.write_bytes(bytes(raw))
    code, said, _ = compress(capsys, teacher, data)
    assert code == 2
    assert "the hub recorded" in said


def test_one_flipped_bit_in_a_folder_of_our_own_is_found(
    teacher: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "student"
    words = ["--teacher", str(teacher), "--data", str(data), "--layers", "2", "-o", str(made)]
    assert main(["design", *words]) == 0
    assert compress(capsys, made, data, "--dry-run")[0] == 0
    raw = bytearray((made / "model.safetensors").read_bytes())
    raw[-5] ^= 1
    (made / "model.safetensors").write_bytes(bytes(raw))
    code, said, _ = compress(capsys, made, data)
    assert code == 2
    assert "model.safetensors" in said
    assert "is not the recorded" in said


DATA: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("missing", shutil.rmtree, ["data"]),
    ("empty folder", lambda f: (shutil.rmtree(f), f.mkdir()), ["data"]),
    ("no dev", lambda f: (f / "dev.tsv").unlink(), ["dev"]),
    ("header", lambda f: line(f, "train.tsv", 1, b"words\tkind"), ["train.tsv", "words"]),
    ("ragged", lambda f: line(f, "train.tsv", 7, b"no label here"), ["train.tsv", "7"]),
    ("label", lambda f: line(f, "dev.tsv", 5, b"turn on\tlihgt"), ["dev.tsv", "5", "light"]),
    ("empty text", lambda f: line(f, "dev.tsv", 9, b"  \tlight"), ["dev.tsv", "9"]),
    ("bytes", lambda f: line(f, "train.tsv", 3, b"caf\xe9\tlight"), ["train.tsv", "3", "UTF-8"]),
]


@pytest.mark.parametrize(("damage", "phrases"), [c[1:] for c in DATA], ids=[c[0] for c in DATA])
def test_data_that_cannot_be_used_is_refused_by_file_and_line(
    damage: Callable[[Path], object],
    phrases: list[str],
    teacher: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(data)
    code, said, output = compress(capsys, teacher, data)
    assert code == 2
    for phrase in phrases:
        assert phrase in said
    assert not output.exists()


WORDS: list[tuple[list[str], list[str]]] = [
    (["student.layer=3"], ["unknown key 'student.layer'", "did you mean 'layers'"]),
    (["student.layers=three"], ["student.layers", "should be a valid integer", "'three'"]),
    (["train.lr=-1"], ["train.lr", "greater than 0"]),
    (["no-equals"], ["override 'no-equals' is not of the form key=value"]),
    (["train.lr=.inf"], ["train.lr: should be a finite number"]),
    (["--latency", "infms"], ["gates.latency_ms: should be a finite number"]),
    (["data.task=clasify"], ["data.task: should be", "did you mean 'classify'?"]),
    (["data.pack=true"], ["data.pack is true", "is no raw text"]),
    (["quantize.aware=never", "quantize.lr=1e-4"], ["drop epochs and lr"]),
    (["precisions=[int8]"], ["precisions must hold fp32"]),
    (["--precision", "int9"], ["unknown precision 'int9'", "did you mean 'int8'"]),
    (["targets=[]"], ["name at least one target"]),
    (["student.path=x", "student.layers=1"], ["path names a student that has a shape"]),
    (["--target", "rasberry-pi-4"], ["unknown target 'rasberry-pi-4'", "'raspberry-pi-4'"]),
    (["--target", "raspberry-pi-4", "--latency", "5ms"], ["nothing can be measured on raspberry"]),
    (["--latency", "fast"], ["'fast' is not a duration"]),
    (["--method", "tinybrt"], ["unknown method 'tinybrt'", "'tinybert'"]),
    (["--method", ""], ["neither a method nor terms are named"]),
    (["--method", "kd", "method_options.kd.tau=0"], ["kl: tau is 0, expected a number above 0"]),
    (["--method", "kd", "method_options.kd.tau=.nan"], ["kd.tau: expected a finite number"]),
    (["--method", "kd", "method_options.kd.alpha=7"], ["the weight of kd/labels is -6"]),
    (["--student", "nowhere"], ["student nowhere: no such folder"]),
    (["--layers", "5"], ["the student has 5 layers, the teacher only 4 to copy"]),
    (["--layers", "9", "student.init=random"], ["more than the teacher's"]),
    (["--ffn", "32", "student.init=teacher_first_k"], ["copies whole layers", "ffn 32"]),
    (["--heads", "5"], ["5 heads do not divide a width of 32"]),
    (["--method", "tinybert", "--heads", "8"], ["the student has 8 heads, the teacher 4"]),
    (["--hidden", "16", "--method", "kd"], ["16 wide", "add +minilm_v2"]),
    (["--hidden", "16", "student.init=teacher_uniform"], ["as bad as a random start"]),
    (["train.epochs=1e308"], ["train.epochs", "less than or equal to 1000000"]),
    (["--seed", "99999999999999999999"], ["seed", "less than 4294967296"]),
    (["data.max_tokens=2"], ["data.max_tokens is 2, which leaves no room", "allow 3 at least"]),
    (["data.max_tokens=100"], ["the teacher has 64 positions"]),
    (["stages.inter.lr=1e-3", "--method", "kd"], ["stages.inter is set"]),
    (["finetune.lr=1e-3"], ["the teacher already has a head"]),
    (["method_options.kd.tau=2"], ["method_options needs a method"]),
    (["data.raw=nowhere.txt", "--method", "tinybert"], ["nowhere.txt"]),
]


@pytest.mark.parametrize(("words", "phrases"), WORDS, ids=[" ".join(w[0]) for w in WORDS])
def test_words_that_cannot_be_meant_are_refused(
    words: list[str],
    phrases: list[str],
    teacher: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said, output = compress(capsys, teacher, data, *words)
    assert code == 2
    for phrase in phrases:
        assert phrase in said
    assert not output.exists()


def test_a_recipe_file_is_refused_with_its_name_and_line(
    teacher: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"teacher: {teacher}\ndata: {{path: {data}}}\ntargts: [host]\n")
    assert main(["compress", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert "recipe.yaml: unknown key 'targts', did you mean 'targets'?" in said.replace("\n", " ")
    recipe.write_text("teacher: [unclosed\n")
    assert main(["compress", str(recipe)]) == 2
    assert "recipe.yaml:2" in capsys.readouterr().err
    assert main(["compress", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_teacher_and_data_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress"]) == 2
    assert "--teacher is missing" in capsys.readouterr().err


def test_an_empty_name_of_a_teacher_is_none(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "--teacher", "", "--data", str(data)]) == 2
    assert "--teacher is missing" in capsys.readouterr().err


def test_an_activation_that_nobody_has_is_refused(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(teacher, hidden_act="gellu")
    output = teacher.parent / "out"
    words = ["--teacher", str(teacher), "--data", str(data), "-o", str(output)]
    assert main(["design", *words]) == 2
    assert "config.json names 'gellu', unknown to transformers" in capsys.readouterr().err
    assert not output.exists()


def test_settings_of_a_cache_are_said_to_be_idle_beside_a_teacher_that_runs(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", "--teacher", str(teacher), "--data", str(data), "--dry-run"]
    idle = "placement.states: of a cached or streamed teacher"
    for placement, said in (("auto", True), ("streamed", False)):
        more = ["placement.states=int8", f"placement.teacher={placement}"]
        assert main([*words, *more, "-o", str(teacher.parent / placement)]) == 0
        assert (idle in capsys.readouterr().out) == said


def test_an_output_folder_of_something_else_is_refused_and_left_alone(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = teacher.parent / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    code, said, _ = compress(capsys, teacher, data)
    assert code == 2
    assert "not empty and holds no run" in said
    assert [p.name for p in output.iterdir()] == ["thesis.tex"]


def test_an_output_folder_of_another_recipe_is_refused_with_the_difference(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolchain.plan import make_plan
    from toolchain.recipe import load_recipe
    from toolchain.rundir import claim

    output = teacher.parent / "out"
    values = {"teacher": str(teacher), "data": {"path": str(data)}, "student": {"layers": 2}}
    plan = make_plan(load_recipe(None, values, []), output)
    with claim(output, plan.recipe):
        code, said, _ = compress(capsys, teacher, data, "--layers", "2")
        assert code == 2
        assert "another run is working in it" in said
    code, said, _ = compress(capsys, teacher, data, "--layers", "1")
    assert code == 2
    assert "student.layers was 2, is 1" in said


def test_an_output_that_cannot_be_written_is_refused(
    teacher: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (teacher.parent / "out").write_text("a file")
    code, said, _ = compress(capsys, teacher, data)
    assert code == 2
    assert "is a file, not a folder" in said


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("mount"), reason="needs mount")
def test_a_disk_too_full_for_the_plan_ends_with_5(
    teacher: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        words = ["compress", "--teacher", str(teacher), "--data", str(data)]
        assert main([*words, "-o", str(small / "out")]) == 5
        assert "are free" in capsys.readouterr().err
        assert not (small / "out").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_refusal_imports_no_torch(teacher: Path, data: Path) -> None:
    code = (
        "import sys; from toolchain.__main__ import main; "
        f"code = main(['compress', '--teacher', {str(teacher)!r}, '--data', {str(data)!r}, "
        "'--target', 'nonsense']); assert code == 2, code; "
        "print([m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
