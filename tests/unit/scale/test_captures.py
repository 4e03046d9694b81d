"""What a cache gives of a batch is what the model gives, in every family, whatever the padding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models import zoo
from toolchain.data.batching import Rows, collate
from toolchain.distill.capture import Captures
from toolchain.distill.context import Context
from toolchain.distill.extract import Request, attn_scores
from toolchain.distill.objectives import KL, TopKKL
from toolchain.distill.objectives.sparse import StoredKL
from toolchain.distill.positions import positions_of
from toolchain.distill.teachers import TrainingModel
from toolchain.models.family import family_of
from toolchain.progress import Null
from toolchain.scale import filling
from toolchain.scale.cached import CachedModel
from toolchain.scale.draws import drawn
from toolchain.scale.filling import fill, lengths_of, missing_rows, online
from toolchain.scale.knowledge import Keep, Precision, Wanted, keeps_of
from toolchain.scale.ledger import CacheFolder, Identity
from toolchain.scale.shard import answers_of, keys_of
from toolchain.spec import ModelSpec, Task

CPU = torch.device("cpu")
LENGTHS = [3, 12, 7, 5, 9, 2, 4, 11]


def rows_of(task: Task, name: str) -> Rows:
    """Random rows of unequal lengths; of a language model half of the tokens are supervised."""
    random = np.random.default_rng(4)
    ids = [random.integers(3, zoo.VOCAB, n) for n in LENGTHS]
    features = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    labels: object = random.integers(0, 3, len(ids))
    if task in ("causal_lm", "tag"):
        top = zoo.VOCAB if task == "causal_lm" else 3
        labels = tuple(
            np.where(random.random(len(row)) < 0.5, -100, random.integers(0, top, len(row)))
            for row in ids
        )
    if task == "multi_label":
        labels = random.integers(0, 2, (len(ids), 3)).astype(np.float32)
    padding = zoo.SETTINGS[name][1].get("pad_token_id", 0)
    return Rows(features=features, labels=labels, pad_id=int(padding), truncated=0, task=task)  # type: ignore[arg-type, call-overload]


def model_of(name: str, task: Task) -> TrainingModel:
    model = zoo.make(name, task)
    family = family_of(model.config.model_type)
    spec = family.spec(model.config.to_dict(), task=task, num_labels=3)
    return TrainingModel(model=model, family=family, spec=spec)


def identity(spec: ModelSpec, keeps: tuple[Keep, ...]) -> Identity:
    return Identity(
        teacher="t", source="t", tokenizer="t", task=spec.task, max_tokens=40, keeps=keeps,
        computed="fp32", versions={},
    )  # fmt: skip


def stored(
    teacher: TrainingModel,
    rows: Rows,
    wanted: Wanted,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    precision: Precision = "fp32",
    top_k: int = 8,
    scores: bool | None = None,
    sampled: bool = False,
) -> CachedModel:
    """Fill a cache of several shards. `scores` forces or forbids keeping scores as they are."""
    monkeypatch.setattr(filling, "SHARD_BYTES", 1)
    lengths = lengths_of(rows)
    if scores is not None:
        pairs = 1 if scores else 1 << 40
        lengths = type(lengths)(lengths.rows, lengths.tokens, pairs, lengths.answers)
    keeps = keeps_of(
        wanted, teacher.spec, lengths, precision=precision, top_k=top_k, sampled=sampled
    )
    folder = CacheFolder(root)
    asked = wanted.requests | {r for n in wanted.scored for r in attn_scores.requests(n)}
    with folder.writing(Null().say):
        folder.begin(identity(teacher.spec, keeps))
        missing = missing_rows(folder, rows)
        source = online(teacher, asked, bf16=False)
        fill(folder, rows, missing, source, batch_size=3, progress=Null())
    assert len(folder.shards()) == 3
    return CachedModel(folder=root, spec=teacher.spec)


def both(
    teacher: TrainingModel, model: CachedModel, rows: Rows, asked: frozenset[Request]
) -> tuple[Captures, Captures, torch.Tensor]:
    batch = collate(rows, [4, 1, 6, 0])
    running = teacher.open(asked, device=CPU, bf16=False)
    reading = model.open(asked, device=CPU, bf16=False)
    found = running.captures(batch, {}), reading.captures(batch, {}), batch.mask_BN
    running.close()
    reading.close()
    return found


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("name", ["bert", "mpnet", "gpt2", "llama", "qwen3", "mistral"])
def test_states_and_scores_are_those_of_the_model(
    name: str, scores: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, rows = model_of(name, "classify"), rows_of("classify", name)
    requests = frozenset(
        {Request("logits"), Request("emb"), Request("hidden", 2), Request("v", 4)}
        | ({Request("pooled")} if name != "mpnet" else set())
    )
    wanted = Wanted(requests, frozenset({1, 3}))
    model = stored(teacher, rows, wanted, tmp_path / "c", monkeypatch, scores=scores)
    kept = {keep.kind for keep in CacheFolder(model.folder).identity().keeps}
    assert ("scores" in kept) is scores
    assert ("q_normed" in kept) is (not scores and name == "qwen3")
    asked = requests | {r for n in (1, 3) for r in attn_scores.requests(n)}
    expected, found, mask = both(teacher, model, rows, asked)
    real = mask.bool()
    for request in requests:
        a, b = expected.tensor(request), found.tensor(request)
        assert a.shape == b.shape
        a, b = (x[real] if request.kind in ("emb", "hidden", "v") else x for x in (a, b))
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    pairs = (real[:, :, None] & real[:, None, :])[:, None].expand(-1, teacher.spec.heads, -1, -1)
    for layer in (1, 3):
        a, b = (side.get(attn_scores, layer) for side in (expected, found))
        torch.testing.assert_close(b[pairs], a[pairs], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("task", ["tag", "multi_label", "regress"])
def test_logits_of_every_task_come_back_in_their_rows(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, rows = model_of("bert", task), rows_of(task, "bert")
    logits = frozenset({Request("logits")})
    model = stored(teacher, rows, Wanted(logits), tmp_path / "c", monkeypatch)
    expected, found, _ = both(teacher, model, rows, logits)
    a, b = (side.tensor(Request("logits")) for side in (expected, found))
    torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


def test_int8_states_are_within_half_a_step_of_their_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, rows = model_of("bert", "classify"), rows_of("classify", "bert")
    hidden = frozenset({Request("hidden", 3)})
    model = stored(teacher, rows, Wanted(hidden), tmp_path / "c", monkeypatch, precision="int8")
    expected, found, mask = both(teacher, model, rows, hidden)
    a, b = (side.tensor(Request("hidden", 3))[mask.bool()] for side in (expected, found))
    step = a.abs().amax(-1, keepdim=True) / 127
    assert bool(((a - b).abs() <= 0.501 * step).all())


def context_of(labels: torch.Tensor, mask: torch.Tensor) -> Context:
    rows = positions_of("causal_lm", labels)
    return Context(mask_BN=mask, labels_P=rows.labels_P, sample_P=rows.sample_P, causal=True)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("k", [3, 8])
def test_the_kl_from_the_largest_logits_is_that_of_the_coarse_classes(
    k: int, tau: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, rows = model_of("llama", "causal_lm"), rows_of("causal_lm", "llama")
    logits = frozenset({Request("logits")})
    wanted = Wanted(logits, taus=frozenset({2.0, 4.0}))
    model = stored(teacher, rows, wanted, tmp_path / "c", monkeypatch)
    (keep,) = CacheFolder(model.folder).identity().keeps
    assert keep.taus == (1.0, 2.0, 4.0)
    expected, found, mask = both(teacher, model, rows, logits)
    whole = expected.tensor(Request("logits"))
    packed = found.tensor(Request("logits"))
    assert packed.shape == (len(whole), 8 + 3 + 8)
    student = torch.randn_like(whole)
    around = context_of(collate(rows, [4, 1, 6, 0]).labels, mask)
    exact = TopKKL(k=k, tau=tau)(student, whole, around)
    kept = StoredKL(k=k, tau=tau, stored=8, temperatures=keep.taus)(student, packed, around)
    torch.testing.assert_close(kept, exact, rtol=2e-3, atol=2e-3)
    assert bool((exact <= KL(tau)(student, whole, around) + 1e-5).all())


def test_drawn_outcomes_come_back_as_they_were_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, rows = model_of("llama", "causal_lm"), rows_of("causal_lm", "llama")
    logits = frozenset({Request("logits")})
    wanted = Wanted(logits, taus=frozenset({2.0, 4.0}))
    model = stored(teacher, rows, wanted, tmp_path / "c", monkeypatch, sampled=True)
    (keep,) = CacheFolder(model.folder).identity().keeps
    assert (keep.kind, keep.taus, keep.width) == ("sampled", (2.0, 4.0), 8)
    expected, found, _ = both(teacher, model, rows, logits)
    chosen = [4, 1, 6, 0]
    names, answers = keys_of(rows), answers_of(rows)
    made = drawn(
        expected.tensor(Request("logits")),
        keep,
        [names[i] for i in chosen],
        [int(answers[i]) for i in chosen],
    )
    packed = found.tensor(Request("logits"))
    assert packed.shape == (int(answers[chosen].sum()), 2 + 2 * 8)
    torch.testing.assert_close(packed[:, :2], made["sampled.entropy"], rtol=1e-5, atol=1e-5)
    # Rounding may move a draw over the edge between two outcomes, but hardly ever.
    assert float((packed[:, 2:] == made["sampled.ids"]).float().mean()) > 0.99


def test_a_token_takes_at_most_400_bytes_at_64_outcomes() -> None:
    for vocab, bytes_ in ((32_000, 64 * 4 + 8), (151_936, 64 * 6 + 8)):
        keep = Keep(
            kind="largest", unit="answer", width=64, precision="fp32", outcomes=vocab,
            taus=(1.0, 4.0),
        )  # fmt: skip
        assert keep.bytes == bytes_ <= 400


def test_scores_are_kept_as_they_are_where_that_is_smaller() -> None:
    spec = model_of("bert", "classify").spec
    wanted = Wanted(frozenset(), frozenset({2}))
    for length, kinds in ((5, ["scores"]), (400, ["k", "q"])):
        lengths = filling.Lengths(1, length, length**2, 1)
        keeps = keeps_of(wanted, spec, lengths, precision="bf16", top_k=64)
        assert [keep.kind for keep in keeps] == kinds
        # 2 bytes for each of 4 heads and pairs, or of 32 features of queries and of keys.
        assert lengths.bytes(keeps) == min(2 * 4 * length**2, 2 * 64 * length)
