"""A streamed teacher says what the whole model says, and never has more than two blocks in memory."""

import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.models import zoo
from toolchain.data.batching import Batch
from toolchain.distill import extract
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.errors import IntegrityError, UsageError
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model
from toolchain.scale.stream import StreamedModel, streamed
from toolchain.scale.weights import FileWeights
from toolchain.spec import Task

CPU = torch.device("cpu")
INSIDE = frozenset(
    {Request("emb"), Request("hidden")}
    | {Request(kind, layer) for kind in ("hidden", "q", "k", "v") for layer in range(1, 5)}
)  # fmt: skip
BEHIND = frozenset({Request("logits"), Request("pooled"), Request("states")})


def batches(name: str, task: Task) -> list[Batch]:
    """Return three batches of different lengths, the last one padded on the left."""
    made = []
    for rows, tokens in ((3, 9), (3, 12), (3, 7)):
        inputs = zoo.batch(name, rows, tokens)
        labels: Tensor = torch.zeros(rows, dtype=torch.long)
        if task in ("tag", "mask_lm", "causal_lm"):
            labels = torch.where(inputs["attention_mask"] > 0, 1, -100)
        elif task == "multi_label":
            labels = torch.zeros(rows, 3)
        made.append(Batch(inputs, labels, tuple(range(rows))))
    left = {key: value.flip(1) for key, value in made[-1].inputs.items()}
    labels = made[-1].labels
    made[-1] = Batch(
        left, labels.flip(1) if labels.ndim == 2 and task != "multi_label" else labels, (0, 1, 2)
    )
    return made


def requests_of(name: str, task: Task) -> frozenset[Request]:
    """Return everything that can be read of a model."""
    if task == "encode":
        return INSIDE
    # Its logits come from two matrices side by side: there is no one last layer.
    return INSIDE | (
        frozenset({Request("logits")}) if (name, task) == ("mobilebert", "mask_lm") else BEHIND
    )


def whole(
    folder: Path,
    task: Task,
    requests: frozenset[Request],
    given: list[Batch],
    *,
    bf16: bool = False,
) -> list[Captures]:
    found = inspect(str(folder))
    model = load_model(folder, task)
    if task == "encode":
        said = []
        with torch.no_grad(), Recorder(model, found.family, found.spec, requests) as recorder:
            for batch in given:
                model(**batch.inputs)
                said.append(recorder.take(torch.empty(0)))
        return said
    teacher = OnlineTeacher(
        TrainingModel(model=model, family=found.family, spec=found.spec),
        requests,
        device=CPU,
        bf16=bf16,
    )
    said = [teacher.captures(batch, {}) for batch in given]
    teacher.close()
    return said


def assert_same(
    ours: Captures, theirs: Captures, requests: frozenset[Request], scores: bool
) -> None:
    assert set(ours.kept) == requests
    for request in requests:
        assert ours.kept[request].dtype == theirs.kept[request].dtype
        torch.testing.assert_close(
            ours.tensor(request), theirs.tensor(request), rtol=1e-6, atol=1e-6
        )
    for layer in range(1, 5) if scores else ():
        ours_BHNN, theirs_BHNN = (c.get(extract.attn_scores, layer) for c in (ours, theirs))
        torch.testing.assert_close(ours_BHNN, theirs_BHNN, rtol=1e-6, atol=1e-6)
    if theirs.decoder:
        assert ours.decoder is not None
        assert torch.equal(ours.decoder.weight_VD, theirs.decoder.weight_VD)


@pytest.mark.parametrize(("name", "task"), zoo.EVERY)
def test_every_family_says_streamed_what_it_says_whole(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make(name, task), tmp_path)
    requests, given = requests_of(name, task), batches(name, task)
    teacher = streamed(inspect(str(folder))).open(requests, device=CPU, bf16=False)
    said = list(teacher.captures_of(given))
    assert len(said) == 3
    for ours, theirs in zip(said, whole(folder, task, requests, given), strict=True):
        assert_same(ours, theirs, requests, name in zoo.SCORED)
