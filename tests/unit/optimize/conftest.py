"""One tiny exported classifier, shared by the tests of the passes."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from toolchain.export.formats.onnx import export
from toolchain.optimize.simplify import simplify


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 3 x 32 as the exporter writes it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=997,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        num_labels=3,
        # Wide enough that a wrong attention shows in the logits.
        initializer_range=0.3,
    )
    path = tmp_path_factory.mktemp("raw") / "model.onnx"
    export(BertForSequenceClassification(config).eval(), path)
    return path


@pytest.fixture(scope="session")
def simplified(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after every graph rewrite."""
    path = tmp_path_factory.mktemp("simplified") / "model.onnx"
    simplify(raw, path)
    return path


def feed(rows: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return padded random inputs, the first row at full length."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {
        "input_ids": generator.integers(1, 997, (rows, tokens)) * mask,
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, (rows, tokens)),
    }


def run(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the logits with every optimisation of the runtime."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    return np.asarray(logits)


def texts(count: int) -> list[dict[str, np.ndarray]]:
    """Return made-up texts as the tiny classifier reads them, each (1, N)."""
    lengths = np.random.default_rng(1).integers(4, 16, count)
    return [feed(1, int(tokens), seed) for seed, tokens in enumerate(lengths)]
