"""Blocks of 8 and 4 bits: products, tables, tied heads, decoders."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.unit.optimize.conftest import feed, run
from tests.unit.optimize.test_tied_head import language_model
from tests.unit.optimize.test_tied_head import run as answer
from toolchain.export.formats.onnx import export
from toolchain.optimize.precision import precisions
from toolchain.optimize.simplify import simplify
from toolchain.runtimes.runtime import runtimes

BOTH = ("int8_weights", "int4_weights")


def written(name: str, source: Path, folder: Path) -> Path:
    out = folder / f"{name}.onnx"
    precisions.get(name).write(source, out, ())
    return out


@pytest.mark.parametrize("name", BOTH)
def test_every_product_of_weights_is_in_blocks(name: str, simplified: Path, tmp_path: Path) -> None:
    graph = onnx.load(written(name, simplified, tmp_path)).graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 3 * 6 + 2
    assert all({a.name: a.i for a in n.attribute}["accuracy_level"] == 4 for n in products)
    large = [t for t in graph.initializer if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT]
    # Scales alone: far fewer numbers than weights.
    assert max(int(np.prod(t.dims)) for t in large) <= 997
    wanted, found = run(simplified, feed(3, 9)), run(tmp_path / f"{name}.onnx", feed(3, 9))
    limit = {"int8_weights": 0.02, "int4_weights": 0.35}[name]
    assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted)


@pytest.mark.parametrize(("name", "part"), [("int8_weights", 0.32), ("int4_weights", 0.2)])
def test_a_tied_table_is_held_once(name: str, part: float, tmp_path: Path) -> None:
    source = language_model(tmp_path / "plain.onnx")
    simplify(source, tmp_path / "tied.onnx")
    out = written(name, tmp_path / "tied.onnx", tmp_path)
    assert out.stat().st_size < part * (tmp_path / "tied.onnx").stat().st_size
    wanted, found = answer(source), answer(out)
    limit = {"int8_weights": 0.02, "int4_weights": 0.25}[name]
    assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("llama")
    export(LlamaForCausalLM(config).eval(), folder / "plain.onnx")
    simplify(folder / "plain.onnx", folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("name", [*BOTH, "fp16", "int8"])
def test_a_decoder_goes_on_with_its_cache(name: str, llama: Path, tmp_path: Path) -> None:
    out = written(name, llama, tmp_path)
    ids = np.array([[5, 17, 250, 3]])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    sessions = {
        path: runtimes.get("onnxruntime")(path, threads=1, provider="CPUExecutionProvider")
        for path in (llama, out)
    }
    wanted, found = (sessions[path].run(given) for path in (llama, out))
    cosine = np.vdot(wanted, found) / np.linalg.norm(wanted) / np.linalg.norm(found)
    assert cosine > {"int4_weights": 0.93}.get(name, 0.999)
    tokens = sessions[out].generate(given, 6)
    # Step by step with a cache, or all at once: the same likeliest tokens.
    whole = np.concatenate([ids, tokens[:, :-1]], axis=1)
    again = sessions[out].run({"input_ids": whole, "attention_mask": np.ones_like(whole)})
    if name != "int8":
        assert again[0, ids.shape[1] - 1 :].argmax(axis=-1).tolist() == tokens[0].tolist()


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_decoder_writes_the_same_text(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260k"
    golden = json.loads((folder / "golden.json").read_text())["token_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    export(model, tmp_path / "plain.onnx")
    simplify(tmp_path / "plain.onnx", tmp_path / "model.onnx")
    first = {"input_ids": np.array([golden[:1]]), "attention_mask": np.ones((1, 1), np.int64)}
    agreed = {}
    for name in ("fp16", *BOTH):
        session = runtimes.get("onnxruntime")(
            written(name, tmp_path / "model.onnx", tmp_path),
            threads=1,
            provider="CPUExecutionProvider",
        )
        found = session.generate(first, len(golden) - 1)[0].tolist()
        pairs = list(zip(found, golden[1:], strict=True))
        agreed[name] = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    assert agreed["fp16"] == len(golden) - 1
    # A close call falls otherwise sooner or later; what comes before is word for word the same.
    assert agreed["int8_weights"] >= 20
    assert agreed["int4_weights"] >= 1
    sizes = {n: (tmp_path / f"{n}.onnx").stat().st_size for n in BOTH}
    assert sizes["int4_weights"] < sizes["int8_weights"]


def test_the_runtime_here_gathers_blocks_of_4_bits(simplified: Path, tmp_path: Path) -> None:
    graph = onnx.load(written("int4_weights", simplified, tmp_path)).graph
    kinds = [node.op_type for node in graph.node]
    # The words' table; those of positions and types are small and stay in 8 bits.
    assert kinds.count("GatherBlockQuantized") == 1
    ort.InferenceSession(tmp_path / "int4_weights.onnx", providers=["CPUExecutionProvider"])
