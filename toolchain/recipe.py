"""Recipe: everything a run was asked to do, as plain data with names unresolved.

The same keys are options of the command line, keys of a YAML file and `key=value` overrides. A
run saves its resolved recipe, so that any run can be repeated from one file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from toolchain.config import Config, apply_overrides, parse, read_yaml

__all__ = [
    "Augment",
    "Benchmark",
    "Columns",
    "Data",
    "DataTask",
    "Gates",
    "Placement",
    "Quantize",
    "Recipe",
    "StageTraining",
    "StudentShape",
    "Training",
    "WrittenTerm",
    "load_recipe",
]

Positive = Annotated[int, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Stage = Literal["general", "inter", "pred"]
DataTask = Literal[
    "causal_lm", "classify", "embed", "mask_lm", "multi_label", "qa", "regress", "tag"
]
"""The tasks that rows can be for; a subset of `spec.Task`."""


class Columns(Config):
    """Column names of the data, where they are not the usual ones.

    `label` holds a class, or a list of labels; `labels` are columns of 0 and 1, one per label;
    `score` a number; `tokens` and `tags` lists of equal length; `prompt`, `input` (which follows
    it) and `answer` text. Of questions about a text, `text` holds the question, `text_b` the text
    and `answer` the answers with their places.
    """

    text: str | None = None
    text_b: str | None = None
    label: str | None = None
    labels: list[str] | None = None
    score: str | None = None
    tokens: str | None = None
    tags: str | None = None
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None


class Augment(Config):
    """Further training rows for students: copies whose words give way to neighbours.

    Each word of a row that is one token is replaced with probability `p` by one of the
    `candidates` words a masked language model finds likeliest in its place. `model` is a folder
    with such a model; left out, it is the teacher as it came, which must then have that head.
    """

    copies: Positive = 20
    p: float = Field(0.4, gt=0, le=1)
    candidates: Positive = 15
    model: str | None = None


class Data(Config):
    """Where the task's rows lie, further ones without labels, and raw text for a general stage.

    `task` says what the rows are for where their columns leave it open. With `pack`, raw text is
    cut into full blocks of `max_tokens` instead of one row per line; by default the text of a
    language-model task is, that of a general stage (`raw`) is not. `unlabelled` are texts of the
    task's kind that the teacher labels for the student. `pooling` says how the states of
    a text become its embedding, where the teacher's folder does not.
    """

    path: str
    task: Literal["auto", DataTask] = "auto"
    raw: str | None = None
    unlabelled: str | None = None
    pack: bool | None = None
    pooling: Literal["auto", "cls", "max", "mean"] = "auto"
    columns: Columns = Columns()
    max_tokens: Positive | None = None
    augment: Augment | None = None


class StudentShape(Config):
    """Shape and initialisation of the student; what is not given is taken from the teacher.

    `path` is a student made elsewhere, whose weights are the start; it has a shape of its own.
    `family` is another architecture than the teacher's: "mobilebert", whose heads are `inner` wide
    together. `vocab` keeps the tokens its texts use most: a part of the teacher's, up to 1, or a
    number of them.
    """

    path: str | None = None
    family: str | None = None
    layers: Positive | None = None
    hidden: Positive | None = None
    heads: Positive | None = None
    ffn: Positive | None = None
    inner: Positive | None = None
    vocab: float | None = Field(None, gt=0)
    init: Literal["auto", "teacher_uniform", "teacher_first_k", "teacher_copy", "random"] = "auto"

    @model_validator(mode="after")
    def _one_source_of_shape(self) -> "StudentShape":
        if self.path and (self.layers or self.hidden or self.heads or self.ffn or self.vocab):
            raise ValueError(
                "path names a student that has a shape: drop layers, hidden, heads, ffn, vocab"
            )
        if self.path and (self.family or self.inner):
            raise ValueError("path names a student that has a family: drop family and inner")
        if self.path and self.init != "auto":
            raise ValueError("path names the student's weights: drop init")
        return self


class WrittenTerm(Config):
    """One term of a loss written out; a part with settings is a mapping of its name to them."""

    name: str | None = None
    knowledge: str
    match: str | dict[str, Any] | None = None
    transform: list[str | dict[str, Any]] = []
    objective: str | dict[str, Any]
    reduction: str | None = None
    weight: float = Field(1.0, ge=0)
    schedule: str | dict[str, Any] | None = None
    stage: Stage = "pred"
    layers: Literal["sum", "mean"] = "sum"
    guide: str | None = None
    view: str = "plain"


class Training(Config):
    """How one stage is trained. `warmup` is a part of the steps, `clip` a gradient norm."""

    epochs: Epochs = 3.0
    batch_size: Positive = 32
    lr: float = Field(1e-4, gt=0)
    warmup: float = Field(0.06, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    evals: Positive = 4
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: float = Field(30.0, ge=0)
    tensorboard: bool = False

    @field_validator("precision", mode="before")
    @classmethod
    def _not_fp16(cls, value: object) -> object:
        if value == "fp16":
            raise ValueError(
                "fp16 is not trained in: small gradients are lost in it, and many devices do not "
                "compute in it; use bf16 where the device has it, or fp32 (auto chooses)"
            )
        return value


class StageTraining(Config):
    """What one stage does differently from `train`."""

    epochs: Epochs | None = None
    batch_size: Positive | None = None
    lr: float | None = Field(None, gt=0)
    warmup: float | None = Field(None, ge=0, lt=1)


class Gates(Config):
    """Limits a variant must keep.

    `max_abs` bounds fp32 logits against PyTorch; `cosine` (of all logits), `agreement` and
    `max_drop` (of the task metric, absolute) bound a quantised variant against its fp32 parent;
    `min_kept` and `latency_ms` bound the shipped variant: the part of the teacher's metric and p50
    on the host.
    """

    max_abs: float = Field(1e-4, gt=0)
    cosine: Fraction = 0.99
    agreement: Fraction = 0.97
    max_drop: float = Field(0.01, ge=0)
    min_kept: Fraction | None = None
    latency_ms: float | None = Field(None, gt=0)


class Quantize(Config):
    """What is done for a quantised file that loses too much.

    `aware` trains the finished student on with the rounding of its int8 file, taught as in its last
    stage: where that file misses a gate (auto), always or never. `epochs` are of the task's rows;
    `lr` is half of that stage's where none is given.
    """

    aware: Literal["auto", "always", "never"] = "auto"
    epochs: Epochs = 1.0
    lr: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _never_has_no_settings(self) -> "Quantize":
        if self.aware == "never" and (self.epochs != 1.0 or self.lr is not None):
            raise ValueError("aware is never, so nothing is trained on: drop epochs and lr")
        return self


class Benchmark(Config):
    """Which loads are timed, for how long. `tokens` are fixed lengths beside the data's own."""

    tokens: list[Positive] = [16, 32, 64, 128]
    min_seconds: float = Field(2.0, gt=0)
    min_runs: Positive = 100
    rounds: Positive = 10


class Placement(Config):
    """Where teacher and student lie while the student trains.

    `whole` is one copy in every process. `zero1` shards the optimiser's state over processes,
    `zero2` gradients too, `zero3` weights too; `tensor_parallel` cuts matrices, `offload` keeps
    what a GPU has no room for in host memory. A `streamed` teacher is read block by block from its
    file, over the whole data set at once; a `cached` one was, and is read from the folder `cache`.
    `top_k` says how many outcomes of a language model such a folder keeps (64 where nothing else is
    asked for), `logits` whether these are the largest (the default) or drawn at random, `states`
    how exactly it keeps hidden states (bf16). `hardware` is what a plan is to be made for, as
    8x40GB; left out, this machine.
    """

    teacher: Literal[
        "auto", "whole", "zero3", "tensor_parallel", "offload", "streamed", "cached"
    ] = "auto"
    student: Literal["auto", "whole", "zero1", "zero2", "zero3", "offload"] = "auto"
    cache: str | None = None
    top_k: Positive | None = None
    logits: Literal["largest", "sampled"] | None = None
    states: Literal["bf16", "fp32", "int8"] | None = None
    hardware: str | None = None

    @field_validator("teacher", "student", mode="before")
    @classmethod
    def _not_nvme(cls, value: object) -> object:
        if value == "nvme":
            raise ValueError(
                "nvme is not offered: DeepSpeed's offloading to NVMe gave other losses on two "
                "processes than on one; use offload (host memory) or zero3 for a student, and "
                "streamed or cached for a teacher larger than memory"
            )
        return value


class Recipe(Config):
    """One whole run.

    `teachers` are further teachers beside `teacher`; `assistants` are shapes between teacher and
    student, from the largest to the smallest, each distilled in turn. `precisions` are what the
    student is written in and measured as, [auto]: every one that a target takes; `formats` in which
    files, [auto]: every one that a target takes and whose packages are installed. `tokenizer`
    inside writes a further file that takes text, where it can be exact.
    """

    teacher: str
    teachers: list[str] = []
    data: Data
    student: StudentShape = StudentShape()
    assistants: list[StudentShape] = []
    method: str = "auto"
    method_options: dict[str, dict[str, Any]] = {}
    terms: list[WrittenTerm] = []
    balance: Literal["none", "initial"] = "none"
    train: Training = Training()
    stages: dict[Stage, StageTraining] = {}
    finetune: StageTraining = StageTraining()
    metric: Literal[
        "auto",
        "accuracy",
        "answer_f1",
        "cosine",
        "entity_f1",
        "exact_match",
        "f1",
        "loss",
        "macro_f1",
        "matthews",
        "micro_f1",
        "mse",
        "pearson",
        "perplexity",
        "spearman",
        "subset_accuracy",
        "token_accuracy",
    ] = "auto"
    baseline: bool = True
    precisions: list[str] = ["int8", "fp32"]
    formats: list[str] = ["onnx"]
    quantize: Quantize = Quantize()
    tokenizer: Literal["beside", "inside"] = "beside"
    gates: Gates = Gates()
    benchmark: Benchmark = Benchmark()
    placement: Placement = Placement()
    targets: list[str] = ["host"]
    max_steps: Positive | None = None
    seed: int = Field(0, ge=0, lt=1 << 32)
    threads: Positive | None = None

    @field_validator("targets")
    @classmethod
    def _one_target_at_least(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one target")
        if len(set(value)) != len(value):
            raise ValueError("a target is named twice")
        return value

    @field_validator("assistants")
    @classmethod
    def _assistants_have_shapes(cls, value: list[StudentShape]) -> list[StudentShape]:
        for shape in value:
            if shape.path is not None:
                raise ValueError("an assistant is a shape, not a path: name it under teacher")
            if shape.layers is None and shape.hidden is None:
                raise ValueError("an assistant needs layers or hidden")
            if shape.vocab is not None:
                raise ValueError("an assistant keeps all tokens: only the student may have fewer")
        return value

    @model_validator(mode="after")
    def _no_contradiction(self) -> "Recipe":
        if len({self.teacher, *self.teachers}) != 1 + len(self.teachers):
            raise ValueError("a teacher is named twice")
        if not {"auto", "fp32"} & set(self.precisions):
            raise ValueError("precisions must hold fp32: every other variant is proved against it")
        if not {"auto", "onnx"} & set(self.formats):
            raise ValueError("formats must hold onnx: every other file is timed beside it")
        return self


def load_recipe(path: Path | None, options: dict[str, Any], overrides: list[str]) -> Recipe:
    """Build a recipe from a file, the options of the command line and `key=value` overrides.

    Later sources win. Raises UsageError for an unreadable file, an unknown key or a wrong value.
    """
    values = read_yaml(path) if path else {}
    values = _merge(values, options)
    values = apply_overrides(values, overrides)
    return parse(Recipe, values, where=str(path) if path else "options")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
