"""A streamed teacher says what the whole model says, with two blocks in memory at most."""

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tests.unit.models import zoo
from toolchain.data.batching import Batch
from toolchain.distill import extract
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.distill.teachers import OnlineTeacher, TrainingModel
from toolchain.errors import IntegrityError, UsageError
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model
from toolchain.scale.stream import StreamedModel, StreamedTeacher, streamed
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
                said.append(recorder.take(None))
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
    ours: Captures,
    theirs: Captures,
    requests: frozenset[Request],
    scores: bool,
    within: float = 1e-6,
) -> None:
    assert set(ours.tensors) == requests
    for request in requests:
        assert ours.tensors[request].dtype == theirs.tensors[request].dtype
        torch.testing.assert_close(
            ours.tensor(request), theirs.tensor(request), rtol=within, atol=within
        )
    for layer in range(1, 5) if scores else ():
        ours_BHNN, theirs_BHNN = (c.get(extract.attn_scores, layer) for c in (ours, theirs))
        torch.testing.assert_close(ours_BHNN, theirs_BHNN, rtol=within, atol=within)
    if theirs.decoder:
        assert ours.decoder is not None
        assert torch.equal(ours.decoder.weight_VD, theirs.decoder.weight_VD)


# The rest differ from these in settings alone.
FEW = [(name, task) for name, task in zoo.EVERY if (name, task) in zoo.HEADS or task == "classify"]


class Watched:
    """The weights of a folder, with a note of what was read and of what is still in memory."""

    def __init__(self, folder: Path) -> None:
        self._weights = FileWeights(folder)
        self.names: list[str] = []
        self.rows_read = 0
        self.reused = 0
        self.most_block_bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._weights.shapes

    def read(self, name: str, buffer: Tensor | None = None) -> Tensor:
        self.names.append(name)
        tensor = self._weights.read(name, buffer)
        if ".layer." in name or ".layers." in name:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.reused += tensor is buffer
        live = sum(size for storage, size in self._alive.values() if not storage.expired())
        self.most_block_bytes = max(self.most_block_bytes, live)
        return tensor

    def rows(self, name: str, ids: Tensor) -> Tensor:
        self.rows_read += 1
        return self._weights.rows(name, ids)


def watched(folder: Path, task: Task | None = None) -> tuple[StreamedModel, Watched]:
    weights = Watched(folder)
    return replace(streamed(inspect(str(folder)), task), weights=weights), weights


def opened(
    model: StreamedModel, requests: frozenset[Request], *, bf16: bool = False
) -> StreamedTeacher:
    return model.open(requests, device=CPU, bf16=bf16)


def check(name: str, task: Task, folder: Path, model: StreamedModel, *, bf16: bool = False) -> None:
    requests, given = requests_of(name, task), batches(name, task)
    said = list(opened(model, requests, bf16=bf16).captures_of(given))
    told = whole(folder, task, requests, given, bf16=bf16)
    assert len(said) == len(told) == 3
    for ours, theirs in zip(said, told, strict=True):
        assert_same(ours, theirs, requests, scores=name in zoo.SCORED)


@pytest.mark.parametrize(("name", "task"), FEW)
def test_every_family_says_streamed_what_it_says_whole(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make(name, task), tmp_path)
    check(name, task, folder, streamed(inspect(str(folder))))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [pair for pair in zoo.EVERY if pair not in FEW])
def test_every_other_head_says_streamed_what_it_says_whole(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make(name, task), tmp_path)
    check(name, task, folder, streamed(inspect(str(folder))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_checkpoint_of_another_type_says_what_it_says_when_loaded_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make("qwen3", "causal_lm").to(dtype), tmp_path)
    assert FileWeights(folder).read("model.norm.weight").dtype == dtype
    check("qwen3", "causal_lm", folder, streamed(inspect(str(folder))))


@pytest.mark.parametrize(
    ("name", "task"),
    [("bert", "mask_lm"), ("gpt2", "causal_lm"), ("mistral", "classify"), ("deberta-v3", "tag")],
)
def test_in_bf16_it_says_what_a_teacher_in_memory_says_in_bf16(
    name: str, task: Task, tmp_path: Path
) -> None:
    folder = zoo.save(zoo.make(name, task), tmp_path)
    check(name, task, folder, streamed(inspect(str(folder))), bf16=True)


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = zoo.make("llama", "causal_lm")
    model.save_pretrained(folder, max_shard_size="20KB")
    zoo.tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 3
    check("llama", "causal_lm", folder, streamed(inspect(str(folder))))


@pytest.mark.parametrize("limit", [0, 20_000])
def test_what_is_spilled_is_what_was_kept(limit: int, tmp_path: Path) -> None:
    folder, work = zoo.save(zoo.make("qwen3", "causal_lm"), tmp_path / "model"), tmp_path / "work"
    model = streamed(inspect(str(folder)), memory_bytes=limit, work=work)
    check("qwen3", "causal_lm", folder, model)
    assert work.is_dir()
    assert not list(work.iterdir())


def test_it_goes_only_as_deep_as_it_is_asked(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert", "classify"), tmp_path)
    model, weights = watched(folder)
    teacher = opened(model, frozenset({Request("hidden", 1), Request("v", 2)}))
    front = ["position_embeddings", "token_type_embeddings", "LayerNorm"]
    assert all(any(part in name for part in front) for name in weights.names)
    weights.names.clear()
    given = batches("bert", "classify")
    said = list(teacher.captures_of(given))
    blocks = [f"bert.encoder.layer.{i}." for i in (0, 1)]
    assert sorted(weights.names) == sorted(
        name for name in weights.shapes if any(name.startswith(block) for block in blocks)
    )
    # Of the table of tokens, only rows: of each batch once.
    assert weights.rows_read == len(given)
    asked = frozenset({Request("hidden", 1), Request("v", 2)})
    for ours, theirs in zip(said, whole(folder, "classify", asked, given), strict=True):
        assert_same(ours, theirs, asked, scores=False)


def test_no_block_is_read_for_embeddings(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("electra", "classify"), tmp_path)
    model, weights = watched(folder)
    requests, given = frozenset({Request("emb")}), batches("electra", "classify")
    said = list(opened(model, requests).captures_of(given))
    assert not [name for name in weights.names if ".layer." in name or "classifier" in name]
    for ours, theirs in zip(said, whole(folder, "classify", requests, given), strict=True):
        assert_same(ours, theirs, requests, scores=False)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_no_more_than_two_blocks_are_in_memory(name: str, tmp_path: Path) -> None:
    folder = zoo.save(zoo.make(name, "classify", num_hidden_layers=7), tmp_path)
    model, weights = watched(folder)
    teacher = opened(model, frozenset({Request("logits")}))
    list(teacher.captures_of(batches(name, "classify")))
    block = 4 * model.spec.block_params()
    assert len([name for name in weights.names if ".5." in name]) > 4
    # The next one is read while one computes, so it is more than one.
    assert block < weights.most_block_bytes <= 2 * block
    # All but the first two are read into memory of earlier ones; on a busy machine the reader may
    # be a block late, and find memory of one more, or the last one's given back already.
    inside = [name for name in weights.names if ".layer." in name or ".layers." in name]
    assert len(inside) * 4 // 7 <= weights.reused <= len(inside) * 6 // 7


def test_blocks_are_read_once_for_all_batches_and_again_for_the_next_call(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("gpt2", "causal_lm"), tmp_path)
    model, weights = watched(folder)
    requests = frozenset({Request("logits"), Request("hidden", 4)})
    teacher, given = opened(model, requests), batches("gpt2", "causal_lm")
    weights.names.clear()
    together = list(teacher.captures_of(iter(given)))
    assert len(weights.names) == len(set(weights.names))
    alone = [teacher.captures(batch, {}) for batch in given]
    assert len(weights.names) == 4 * len(set(weights.names))
    for one, other in zip(together, alone, strict=True):
        for request in requests:
            assert torch.equal(one.tensor(request), other.tensor(request))
    assert list(teacher.captures_of([])) == []


def test_a_stream_left_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("mpnet", "classify"), tmp_path)
    teacher = opened(streamed(inspect(str(folder))), frozenset({Request("logits")}))
    given = batches("mpnet", "classify")
    stream = teacher.captures_of(given)
    first = next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read ahead")]
    again = next(iter(teacher.captures_of(given)))
    assert torch.equal(first.tensor(Request("logits")), again.tensor(Request("logits")))
    teacher.close()


def test_a_body_without_head_and_a_head_not_asked_for_are_enough(tmp_path: Path) -> None:
    bare = zoo.save(zoo.make("roberta", "encode"), tmp_path / "bare")
    asked = frozenset({Request("hidden", 2), Request("q", 3), Request("k", 3)})
    given = batches("roberta", "classify")
    body = opened(streamed(inspect(str(bare)), "mask_lm"), asked)
    (told, *_) = whole(bare, "encode", asked, given)
    assert_same(next(iter(body.captures_of(given))), told, asked, scores=False)
    with pytest.raises(UsageError, match=r"lacks 'lm_head\.bias'") as caught:
        opened(streamed(inspect(str(bare)), "mask_lm"), asked | {Request("logits")})
    assert "trained for the task" in caught.value.hint
    with pytest.raises(UsageError, match="no head for encode"):
        opened(streamed(inspect(str(bare))), frozenset({Request("logits")}))
    headed = zoo.save(zoo.make("roberta", "classify"), tmp_path / "headed")
    (told, *_) = whole(headed, "classify", asked, given)
    encoder = opened(streamed(inspect(str(headed)), "encode"), asked)
    assert_same(next(iter(encoder.captures_of(given))), told, asked, scores=False)


def test_norms_under_their_old_names_are_found(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert", "mask_lm"), tmp_path)

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[old] = tensors.pop(name)

    zoo.edit_weights(folder, rename)
    check("bert", "mask_lm", folder, streamed(inspect(str(folder))))


def test_a_missing_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    zoo.make("bert").save_pretrained(tmp_path, max_shard_size="20KB")
    zoo.tokenizer().save_pretrained(tmp_path)
    found = inspect(str(tmp_path))
    shard = sorted(tmp_path.glob("*.safetensors"))[2]
    shard.unlink()
    with pytest.raises(UsageError, match=f"shard '{shard.name}' is missing"):
        streamed(found)


def test_a_missing_tensor_and_one_of_another_shape_are_refused_with_their_names(
    tmp_path: Path,
) -> None:
    folder = zoo.save(zoo.make("bert"), tmp_path / "whole")
    found = inspect(str(folder))
    name = "bert.encoder.layer.2.output.dense.weight"
    deep, shallow = frozenset({Request("hidden", 3)}), frozenset({Request("hidden", 2)})
    for change, match in (
        (lambda tensors: tensors.pop(name), f"lacks '{name}'"),
        (
            lambda tensors: tensors.update({name: torch.zeros(3, 4)}),
            r"shape \[3, 4\], .* says \[32",
        ),
    ):
        damaged = tmp_path / "damaged"
        shutil.copytree(folder, damaged)
        zoo.edit_weights(damaged, change)
        model = streamed(replace(found, root=damaged))
        opened(model, shallow)
        with pytest.raises(UsageError, match=match):
            opened(model, deep)
        shutil.rmtree(damaged)


def test_what_has_no_place_in_the_model_is_refused_before_any_pass(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("mobilebert", "mask_lm"), tmp_path)
    with pytest.raises(UsageError, match="no one linear layer"):
        opened(streamed(inspect(str(folder))), frozenset({Request("states")}))


def test_interventions_are_refused(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert"), tmp_path)
    teacher = opened(streamed(inspect(str(folder))), frozenset({Request("hidden", 1)}))
    with pytest.raises(UsageError, match="cannot be replaced"):
        teacher.captures(batches("bert", "classify")[0], {Request("hidden", 1): lambda x: x})


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert"), tmp_path)
    teacher = opened(streamed(inspect(str(folder))), frozenset({Request("logits")}))
    file = folder / "model.safetensors"
    with file.open("r+b") as raw:
        raw.truncate(file.stat().st_size // 2)
    with pytest.raises(IntegrityError, match=r"model\.safetensors ends before"):
        list(teacher.captures_of(batches("bert", "classify")))


def test_weights_that_are_no_numbers_of_a_model_are_refused(tmp_path: Path) -> None:
    folder = zoo.save(zoo.make("bert"), tmp_path)
    name = "bert.encoder.layer.0.output.dense.bias"
    zoo.edit_weights(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    teacher = opened(streamed(inspect(str(folder))), frozenset({Request("hidden", 1)}))
    with pytest.raises(UsageError, match=r"'bert\..*bias' in model\.safetensors is of type I8"):
        list(teacher.captures_of(batches("bert", "classify")))
