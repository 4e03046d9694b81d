"""What tests of real trainings share: the settings of a short run, the task's rows, a kill."""

from pathlib import Path

from toolchain.data.batching import Rows, tokenize
from toolchain.distill.records import StageRun
from toolchain.models.loading import load_tokenizer
from toolchain.progress import Null

RUN = StageRun(
    name="pred",
    steps=12,
    batch_size=16,
    lr=1e-3,
    warmup=0.1,
    weight_decay=0.01,
    clip=1.0,
    evals=3,
    keep_best=True,
    bf16=False,
    seed=5,
    metric="accuracy",
    checkpoint_seconds=0.0,
)


class Killed(Exception):
    pass


class StopAt(Null):
    """Raises in the middle of a run, as late as possible in its step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        if done == self.at:
            raise Killed


def rows_of(teacher: Path, task: Path, split: str) -> Rows:
    """Tokenise one split of the task folder with the teacher's tokenizer."""
    names = (task / "labels.txt").read_text().split()
    lines = (task / f"{split}.tsv").read_text().splitlines()[1:]
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    ids = [names.index(label) for label in labels]
    return tokenize(load_tokenizer(teacher), texts, None, ids, max_tokens=64)
