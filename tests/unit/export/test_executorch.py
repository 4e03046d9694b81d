"""The ExecuTorch format on tiny real models: parity in every length, int8, what its file holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import make_teacher, sentences
from tests.unit.models import zoo
from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.exporter import Signature, Source, exporters
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.models.outputs import logits_of
from toolchain.runtimes.runtime import runtimes

for package in ("executorch", "torchao"):
    pytest.importorskip(package, reason="the extra [executorch] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

Feeds = list[dict[str, NDArray[np.int64]]]
CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of one block: lowering takes seconds a block."""
    return make_teacher(tmp_path_factory.mktemp("small"), head=True, num_hidden_layers=1)


@pytest.fixture(scope="module")
def feeds(small: Path) -> Feeds:
    tokenizer = load_tokenizer(small)
    texts = [text for text, _ in sentences(24, seed=3)]
    texts += [" ".join(texts[:3])]
    found = [
        {name: np.array(ids, dtype=np.int64) for name, ids in tokenizer([text]).items()}
        for text in texts
    ]
    assert {feed["input_ids"].shape[1] > 16 for feed in found} == {True, False}
    return found


@pytest.fixture(scope="module")
def signatures(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Signature]:
    """The file of each precision, and its signature."""
    out = tmp_path_factory.mktemp("executorch")
    exporter = exporters.get("executorch")
    source = Source(model=lambda: load_model(small, "classify"), max_tokens=40)
    return {
        out / file: exporter.write(source, out / file, precision)
        for precision, file in exporter.files.items()
    }


def answers(path: Path, feeds: Feeds, runtime: str = "executorch") -> NDArray[np.float32]:
    session = runtimes.get(runtime)(path, threads=1, provider=CPU)
    found = np.concatenate([session.run(feed) for feed in feeds])
    session.close()
    return found


def test_each_precision_answers_like_pytorch(
    signatures: dict[Path, Signature], feeds: Feeds, small: Path
) -> None:
    expected = answers(small, feeds, "pytorch")
    plain, int8 = signatures
    np.testing.assert_allclose(answers(plain, feeds), expected, atol=1e-5)
    found = answers(int8, feeds)
    assert 1e-4 < np.abs(found - expected).max() < 0.5
    assert (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99
    model = load_model(small, "classify")
    assert plain.stat().st_size > 4 * sum(p.numel() for p in model.parameters())
    assert int8.stat().st_size < plain.stat().st_size


def test_int8_rounds_matrices_and_words(signatures: dict[Path, Signature], small: Path) -> None:
    plain, int8 = (path.read_bytes() for path in signatures)
    model = load_model(small, "classify")
    table = model.get_input_embeddings().weight.detach()
    assert table.numpy().tobytes() in plain
    assert table.numpy().tobytes() not in int8
    rounded = (table / (table.abs().amax(1, keepdim=True) / 127)).round().to(torch.int8)
    assert rounded.numpy().tobytes() in int8
    matrix = model.bert.encoder.layer[0].intermediate.dense.weight.detach().numpy()
    assert matrix.tobytes() in plain
    assert matrix.tobytes() not in int8


def test_padding_and_batches_change_nothing(
    signatures: dict[Path, Signature], feeds: Feeds
) -> None:
    width = max(feed["input_ids"].shape[1] for feed in feeds) + 20
    batch = {
        name: np.concatenate(
            [np.pad(feed[name], ((0, 0), (0, width - feed[name].shape[1]))) for feed in feeds]
        )
        for name in feeds[0]
    }
    for path in signatures:
        np.testing.assert_array_equal(answers(path, [batch]), answers(path, feeds))


def test_the_length_is_free_and_the_longest_row_is_the_limit(
    signatures: dict[Path, Signature],
) -> None:
    for signature in signatures.values():
        assert signature.inputs == ("input_ids", "attention_mask", "token_type_ids")
        assert signature.dynamic_axes["input_ids"] == ("", "tokens")
        assert signature.dynamic_axes["logits"] == ("", "")
        assert signature.buckets == ()
    session = runtimes.get("executorch")(next(iter(signatures)), threads=1, provider=CPU)
    row = {name: np.ones((1, 41), np.int64) for name in signature.inputs}
    assert session.run({name: ids[:, :40] for name, ids in row.items()}).shape == (1, 3)
    with pytest.raises(StepError, match="at most 40 tokens, found 41"):
        session.run(row)


@pytest.mark.parametrize(
    ("name", "task", "changes"),
    [
        ("distilbert", "qa", {"n_layers": 1}),
        pytest.param("roberta", "tag", {"num_hidden_layers": 1}, marks=pytest.mark.slow),
    ],
)
def test_heads_with_figures_for_every_token(
    name: str, task: str, changes: dict[str, int], tmp_path: Path
) -> None:
    model = zoo.make(name, task, **changes)  # type: ignore[arg-type]
    source = Source(model=lambda: zoo.make(name, task, **changes), max_tokens=20)  # type: ignore[arg-type]
    signature = exporters.get("executorch").write(source, tmp_path / "model.pte", "fp32")
    session = runtimes.get("executorch")(tmp_path / "model.pte", threads=1, provider=CPU)
    for tokens in (1, 9, 20):
        batch = zoo.batch(name, rows=3, tokens=tokens)
        real = batch["attention_mask"].numpy().astype(bool)
        feed = {n: batch[n].numpy() for n in signature.inputs}
        with torch.no_grad():
            expected = logits_of(model(**{n: torch.from_numpy(v) for n, v in feed.items()})).numpy()
        found = session.run(feed)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found[real], expected[real], atol=2e-5, rtol=0)


def test_what_cannot_be_read_is_named(
    signatures: dict[Path, Signature], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    open_session = runtimes.get("executorch")
    whole = next(iter(signatures))
    with pytest.raises(UsageError, match="no such file"):
        open_session(tmp_path / "model.pte", threads=1, provider=CPU)
    cut = tmp_path / "cut.pte"
    for content in (b"not a program at all, but long enough", whole.read_bytes()[:-50]):
        cut.write_bytes(content)
        with pytest.raises(IntegrityError, match="not a whole ExecuTorch program"):
            open_session(cut, threads=1, provider=CPU)
    session = open_session(whole, threads=1, provider=CPU)
    with pytest.raises(UsageError, match="asks for"):
        session.run({"input_ids": np.ones((1, 4), np.int64)})
    with pytest.raises(UsageError, match="without a cache"):
        session.generate({"input_ids": np.ones((1, 4), np.int64)}, 2)
    assert capfd.readouterr() == ("", "")


def test_a_length_is_needed(small: Path, tmp_path: Path) -> None:
    source = Source(model=lambda: load_model(small, "classify"))
    with pytest.raises(UsageError, match="none was given"):
        exporters.get("executorch").write(source, tmp_path / "model.pte", "fp32")
