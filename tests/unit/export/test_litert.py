"""The LiteRT format on a tiny real model: parity in every length, int8, what its file holds."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import sentences
from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.exporter import Signature, Source, exporters
from toolchain.export.formats.litert import buckets
from toolchain.export.tflite_file import slim
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.runtimes.runtime import runtimes


def test_lengths_end_with_the_longest_row() -> None:
    assert buckets(128) == (16, 32, 64, 128)
    assert buckets(100) == (16, 32, 64, 100)
    assert buckets(8) == (8,)


for package in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
    pytest.importorskip(package, reason="the extra [litert] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

Feeds = list[dict[str, NDArray[np.int64]]]


@pytest.fixture(scope="module")
def feeds(teacher_folder: Path) -> Feeds:
    tokenizer = load_tokenizer(teacher_folder)
    texts = [text for text, _ in sentences(24, seed=3)]
    texts += [" ".join(texts[:3])]
    found = [
        {name: np.array(ids, dtype=np.int64) for name, ids in tokenizer([text]).items()}
        for text in texts
    ]
    assert {feed["input_ids"].shape[1] > 16 for feed in found} == {True, False}
    return found


@pytest.fixture(scope="module")
def signatures(
    teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, Signature]:
    """The file of each precision, and its signature."""
    out = tmp_path_factory.mktemp("litert")
    exporter = exporters.get("litert")
    source = Source(model=lambda: load_model(teacher_folder, "classify"), max_tokens=40)
    return {
        out / file: exporter.write(source, out / file, precision)
        for precision, file in exporter.files.items()
    }


def answers(path: Path, feeds: Feeds, runtime: str = "litert") -> NDArray[np.float32]:
    session = runtimes.get(runtime)(path, threads=1, provider="CPUExecutionProvider")
    found = np.concatenate([session.run(feed) for feed in feeds])
    session.close()
    return found


def test_each_precision_answers_like_pytorch(
    signatures: dict[Path, Signature], feeds: Feeds, teacher_folder: Path
) -> None:
    expected = answers(teacher_folder, feeds, "pytorch")
    plain, int8 = signatures
    np.testing.assert_allclose(answers(plain, feeds), expected, atol=1e-4)
    found = answers(int8, feeds)
    assert 1e-4 < np.abs(found - expected).max() < 0.5
    assert (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99
    assert int8.stat().st_size < plain.stat().st_size


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


def test_one_file_holds_all_lengths_over_the_same_weights(
    signatures: dict[Path, Signature], teacher_folder: Path
) -> None:
    plain = next(iter(signatures))
    assert signatures[plain].buckets == (16, 32, 40)
    model = load_model(teacher_folder, "classify")
    table = model.get_input_embeddings().weight.detach().numpy().tobytes()
    assert plain.read_bytes().count(table) == 1


def test_a_file_says_nothing_twice(signatures: dict[Path, Signature]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    for path in signatures:
        content = path.read_bytes()
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        scales = [
            tensor.quantization.scale.tobytes()
            for graph in model.subgraphs
            for tensor in graph.tensors
            if tensor.quantization is not None and tensor.quantization.scale is not None
        ]
        long = {held for held in scales if len(held) >= 64}
        assert bool(long) == ("int8" in path.name)
        assert all(content.count(held) == 1 for held in long)
        # Three lengths read the same tables.
        assert len([held for held in scales if held in long]) >= 3 * len(long)
        for graph in model.subgraphs:
            names = [tensor.name for tensor in graph.tensors]
            ends = {*graph.inputs, *graph.outputs}
            assert len(set(names)) == len(names)
            assert all(len(n) < 8 for i, n in enumerate(names) if i not in ends)


def test_a_file_is_made_smaller_in_place_without_another_answer(
    signatures: dict[Path, Signature], feeds: Feeds, tmp_path: Path
) -> None:
    from ai_edge_quantizer import quantizer, recipe

    plain, _ = signatures
    worker = quantizer.Quantizer(str(plain))
    worker.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    copy = tmp_path / "model.tflite"
    worker.quantize().export_model(str(copy))
    before, size = answers(copy, feeds), copy.stat().st_size
    slim(copy)
    assert copy.stat().st_size < size
    np.testing.assert_array_equal(answers(copy, feeds), before)
    assert list(tmp_path.iterdir()) == [copy]
    # Once more changes nothing.
    content = copy.read_bytes()
    slim(copy)
    assert copy.read_bytes() == content


def test_what_cannot_be_read_is_named(signatures: dict[Path, Signature], tmp_path: Path) -> None:
    open_session, cpu = runtimes.get("litert"), "CPUExecutionProvider"
    whole = next(iter(signatures))
    with pytest.raises(UsageError, match="no such file"):
        open_session(tmp_path / "model.tflite", threads=1, provider=cpu)
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(b"not a model at all, but long enough to be looked at")
    with pytest.raises(IntegrityError, match="not a whole LiteRT model"):
        open_session(cut, threads=1, provider=cpu)
    session = open_session(whole, threads=1, provider=cpu)
    names = ("input_ids", "attention_mask", "token_type_ids")
    with pytest.raises(StepError, match="at most 40 tokens, found 41"):
        session.run({name: np.ones((1, 41), np.int64) for name in names})
    with pytest.raises(UsageError, match="asks for"):
        session.run({"input_ids": np.ones((1, 4), np.int64)})


def test_a_length_is_needed(teacher_folder: Path, tmp_path: Path) -> None:
    source = Source(model=lambda: load_model(teacher_folder, "classify"))
    with pytest.raises(UsageError, match="no longest row"):
        exporters.get("litert").write(source, tmp_path / "model.tflite", "fp32")
