"""Write the folder that runs on the device: model, tokenizer, proofs, sample, self-test.

The caller seals it: `drafting` of `toolchain.artifact` writes manifest.json with the sha256 of
every file, which the self-test reads. `toolchain.bundle.check.selftest` then proves it here.
"""

import json
import runpy
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from toolchain.artifact import file_sha256, out_of_disk
from toolchain.bundle.about import TEXT_MODEL, About, Kind, ModelFile
from toolchain.bundle.engines import Engine, engine_of
from toolchain.bundle.forms import Form, Row, Shipped, form_of
from toolchain.bundle.golden import golden_rows, padding_of
from toolchain.bundle.readme import render
from toolchain.errors import IntegrityError, UsageError
from toolchain.export.answers import ENDS
from toolchain.measurement import Measurement, Metric
from toolchain.models.loading import load_tokenizer
from toolchain.onnx_file import check_weights
from toolchain.recipe import DataTask
from toolchain.target import Target

__all__ = ["build"]

_ASSETS = Path(__file__).resolve().parent / "assets"
_SELFTEST = "selftest.py"
_KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_DECODER_INPUTS = ("input_ids", "attention_mask", "position_ids")
_CACHE = "past_key_values."

# What onnxruntime 1.22.1, the oldest one a bundle asks for, can open.
_MAX_IR_VERSION = 10


def build(
    out: Path,
    *,
    target: Target,
    model: Path,
    model_digest: str,
    tokenizer: Path,
    labels: tuple[str, ...],
    kind: Kind,
    max_tokens: int,
    golden_texts: Sequence[str] | Sequence[Row],
    precision: str,
    lineage: Mapping[str, str],
    licenses: Mapping[str, str],
    metric: Metric | None = None,
    measurements: Sequence[Measurement] = (),
    notes: Sequence[str] = (),
    task: DataTask = "classify",
    format: str = "onnx",
    text_model: Path | None = None,
    unanswered: bool = False,
) -> None:
    """Write a bundle into the empty folder `out`.

    `model_digest` is the sha256 of the file in `format` that was verified and measured;
    `tokenizer` is a folder with tokenizer.json and tokenizer_config.json; `golden_texts` are real
    rows of the task (of a tagger, the words of each); `licenses` maps file names to texts.
    `text_model` is the same model with the tokenizer inside, copied along. `unanswered` says of a
    model for questions whether giving no answer is an answer.

    Raises UsageError for arguments that make no bundle or that the target does not take, and
    IntegrityError when the model is not the one of that digest, answers with another number of
    labels, or the shipped tokenizer does not give the Hugging Face one's tokens.
    """
    _check_arguments(out, tokenizer, licenses)
    form = form_of(task)
    _check_labels(labels, task, form)
    rows = _own_rows(golden_texts, kind, form)
    reference = load_tokenizer(tokenizer)
    about = About(
        target=target,
        model=_inspect(model, model_digest, form, format),
        padding=padding_of(reference),
        labels=labels,
        kind=kind,
        max_tokens=max_tokens,
        precision=precision,
        lineage=lineage,
        metric=metric,
        measurements=tuple(measurements),
        notes=tuple(notes),
        task=task,
        format=format,
        text_model=text_model is not None,
        unanswered=unanswered,
    )
    _check_target(about)
    try:
        _copy(out, model, tokenizer, about)
        if text_model:
            shutil.copyfile(text_model, out / TEXT_MODEL)
        _write_texts(out, about, licenses)
    except OSError as error:
        raise out_of_disk(error, out) from error
    opened, damaged = _program(out, about)
    try:
        golden = golden_rows(reference, opened(out), rows, kind=kind, max_tokens=max_tokens)
    except damaged as error:
        raise IntegrityError(f"{model}: the bundle does not run here: {error}") from None
    lines = [json.dumps(row) + "\n" for row in golden]
    (out / "golden.jsonl").write_text("".join(lines), encoding="utf-8")


def _program(out: Path, about: About) -> tuple[Callable[[Path], Shipped], type[Exception]]:
    """Return what opens the bundle and what that raises: its own script's where it was changed."""
    form = about.form
    if not about.engine.adapts:
        return form.open, form.damaged
    names = runpy.run_path(str(out / form.script))
    return names[form.name], names["BundleError"]


def _check_labels(labels: tuple[str, ...], task: DataTask, form: Form) -> None:
    if task == "regress" and len(labels) != 1:
        raise UsageError(f"expected the one name of a score, found {labels!r}")
    if form.fewest == 0 and labels:
        raise UsageError(f"expected no labels for {task}, found {labels!r}")
    if len(labels) < form.fewest or len(set(labels)) != len(labels):
        words = {1: "one", 2: "two"}[form.fewest]
        raise UsageError(f"expected {words} or more labels of different names, found {labels!r}")


def _check_arguments(out: Path, tokenizer: Path, licenses: Mapping[str, str]) -> None:
    if any(out.iterdir()):
        raise UsageError(f"{out}: expected an empty folder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (tokenizer / name).is_file():
            raise UsageError(f"{tokenizer}: holds no {name}", "save it with save_pretrained")
    for name in licenses:
        if PurePosixPath(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise UsageError(f"the licence file name {name!r} is not a plain file name")


def _own_rows(texts: Sequence[str] | Sequence[Row], kind: Kind, form: Form) -> list[Row]:
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    if form.words:
        return rows
    expected = 2 if kind == "pair" else 1
    for number, row in enumerate(rows, start=1):
        if len(row) != expected:
            raise UsageError(f"golden text {number}: a {kind} row, but found {len(row)} texts")
    return rows


def _inspect(path: Path, digest: str, form: Form, format: str) -> ModelFile:
    """Read what a file declares; refuse one that older runtimes or the scripts can't use."""
    found = file_sha256(path)
    if found != digest:
        raise IntegrityError(
            f"{path}: sha256 {found[:12]} is not {digest[:12]}, the model that was verified"
        )
    engine = engine_of(format)
    if engine.names:
        return _inspect_other(path, found, engine, form)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UsageError(f"{path}: not an ONNX file: {error}") from None
    weights = check_weights(path, proto)
    if proto.ir_version > _MAX_IR_VERSION:
        raise UsageError(
            f"{path}: ONNX IR version {proto.ir_version}, but onnxruntime "
            f"{engine.minimum} opens at most {_MAX_IR_VERSION}",
            "save the model with an older IR version",
        )
    inputs = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    cache = {name for name in inputs if form.prompt and name.startswith(_CACHE)}
    own = {name: kind for name, kind in inputs.items() if name not in cache}
    known = _DECODER_INPUTS if form.prompt else _KNOWN_INPUTS
    usable = set(own) <= set(known) and "input_ids" in own and bool(cache) == form.prompt
    if not usable or set(own.values()) != {onnx.TensorProto.INT64}:
        expected = ", ".join((*known, f"{_CACHE}*") if form.prompt else known)
        raise UsageError(f"{path}: takes {', '.join(inputs)}, expected int64 inputs of {expected}")
    output = _logits_output([value.name for value in proto.graph.output], path, form)
    given = next(value for value in proto.graph.output if value.name == output.split()[0])
    axes = given.type.tensor_type.shape.dim
    return ModelFile(
        sha256=found,
        file_bytes=sum(file.stat().st_size for file in (path, weights) if file),
        weights=weights.name if weights else "",
        opset=max(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
        ir_version=proto.ir_version,
        inputs=tuple(own),
        output=output,
        width=axes[-1].dim_value if axes and form.vector else 0,
    )


def _inspect_other(path: Path, digest: str, engine: Engine, form: Form) -> ModelFile:
    assert engine.names is not None
    inputs, outputs = engine.names(path)
    if not set(inputs) <= set(_KNOWN_INPUTS) or "input_ids" not in inputs:
        expected = ", ".join(_KNOWN_INPUTS)
        raise UsageError(f"{path}: takes {', '.join(inputs)}, expected inputs of {expected}")
    return ModelFile(
        sha256=digest,
        file_bytes=sum(file.stat().st_size for file in engine.files(path)),
        opset=0,
        ir_version=0,
        inputs=tuple(inputs),
        output=_logits_output(outputs, path, form),
        width=engine.width(path) if form.vector and engine.width else 0,
    )


def _logits_output(names: Sequence[str], path: Path, form: Form) -> str:
    if form.windows:
        if not set(ENDS) <= set(names):
            raise UsageError(f"{path}: gives {', '.join(names)}, expected {' and '.join(ENDS)}")
        return " ".join(ENDS)
    if "logits" in names:
        return "logits"
    if len(names) != 1:
        raise UsageError(f"{path}: gives {', '.join(names)}, expected one called logits")
    return names[0]


def _check_target(about: About) -> None:
    reasons = about.target.why_not(
        format=about.format,
        precision=about.precision,
        opset=about.model.opset,
        file_bytes=about.model.file_bytes,
    )
    if reasons:
        raise UsageError("; ".join(reasons))


def _copy(out: Path, model: Path, tokenizer: Path, about: About) -> None:
    for source, name in about.engine.files(model).items():
        shutil.copyfile(source, out / name)
    shutil.copyfile(tokenizer / "tokenizer.json", out / "tokenizer.json")
    if (tokenizer / "vocab.txt").is_file():
        shutil.copyfile(tokenizer / "vocab.txt", out / "vocab.txt")
        _check_vocabulary(out)
    for name in (about.form.script, _SELFTEST):
        script = (_ASSETS / name).read_text(encoding="utf-8")
        (out / name).write_text(about.engine.adapted(script), encoding="utf-8")


def _check_vocabulary(out: Path) -> None:
    """Refuse a vocab.txt that numbers its tokens unlike tokenizer.json."""
    content = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    ids = dict(content["model"]["vocab"])
    ids.update((entry["content"], entry["id"]) for entry in content.get("added_tokens", []))
    for number, token in enumerate((out / "vocab.txt").read_text(encoding="utf-8").split("\n")):
        if token and ids.get(token) != number:
            raise IntegrityError(
                f"vocab.txt: {token!r} is number {number}, but {ids.get(token)} in tokenizer.json"
            )


def _write_texts(out: Path, about: About, licenses: Mapping[str, str]) -> None:
    folder = out / "LICENSES"
    texts = {
        out / "bundle.json": json.dumps(about.as_json(), indent=2) + "\n",
        out / "README.md": about.engine.adapted(render(about, sorted(licenses))),
        out / "requirements.txt": "".join(f"{k}>={v}\n" for k, v in about.requires.items()),
        **{folder / name: text for name, text in licenses.items()},
    }
    folder.mkdir()
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
