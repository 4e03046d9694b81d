"""The ONNX export: the same answers, the same bytes, nothing of the machine inside."""

import site
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from toolchain.errors import StepError, UsageError
from toolchain.export.exporter import Signature, exporters
from toolchain.export.formats.onnx import export
from toolchain.onnx_file import read_model
from toolchain.onnx_pair import ONE_FILE, data_of

SHAPES = [(1, 1), (1, 7), (2, 1), (3, 9), (1, 40)]
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    # Wide enough that a wrong attention shows in the logits.
    "initializer_range": 0.3,
}


def tiny_bert(**changes: object) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**SIZES, "num_labels": 3, **changes})).eval()


def feed(rows: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {
        "input_ids": generator.integers(1, 97, (rows, tokens)) * mask,
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, (rows, tokens)),
    }


def run(path: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    return np.asarray(logits)


def torch_logits(model: PreTrainedModel, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        logits: torch.Tensor = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits
    return logits.numpy()


@pytest.fixture(scope="module")
def bert() -> BertForSequenceClassification:
    return tiny_bert()


@pytest.fixture(scope="module")
def exported(
    bert: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Signature]:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return path, export(bert, path)


@pytest.mark.parametrize(("rows", "tokens"), SHAPES)
def test_the_file_answers_as_the_model_does(
    bert: BertForSequenceClassification, exported: tuple[Path, Signature], rows: int, tokens: int
) -> None:
    inputs = feed(rows, tokens)
    expected = torch_logits(bert, inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(run(exported[0], inputs), expected, atol=1e-5, rtol=0)


def test_padding_never_changes_an_answer(exported: tuple[Path, Signature]) -> None:
    alone = feed(1, 6)
    padded = {k: np.pad(v, ((0, 0), (0, 11))) for k, v in alone.items()}
    np.testing.assert_allclose(run(exported[0], padded), run(exported[0], alone), atol=1e-5)


def test_the_token_types_of_a_pair_matter(exported: tuple[Path, Signature]) -> None:
    pair = feed(1, 8)
    pair["token_type_ids"] = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    single = {**pair, "token_type_ids": np.zeros((1, 8), dtype=np.int64)}
    assert np.abs(run(exported[0], pair) - run(exported[0], single)).max() > 1e-2


def test_the_signature_is_what_the_file_says(exported: tuple[Path, Signature]) -> None:
    path, signature = exported
    graph = onnx.load(path).graph
    axes = {
        value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output)
    }
    assert signature.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert signature.outputs == ("logits",)
    assert axes == dict(signature.dynamic_axes)
    assert axes["input_ids"] == ("batch", "sequence")
    assert [o.version for o in onnx.load(path).opset_import] == [signature.opset]
    assert signature.as_json()["dynamic_axes"]["logits"] == ["batch", ""]
    assert all(v.type.tensor_type.elem_type == onnx.TensorProto.INT64 for v in graph.input)


def test_exporting_twice_gives_the_same_bytes_whatever_the_sample(
    bert: BertForSequenceClassification, exported: tuple[Path, Signature], tmp_path: Path
) -> None:
    sample = {name: torch.from_numpy(value) for name, value in feed(3, 5, seed=4).items()}
    assert export(bert, tmp_path / "again.onnx", sample=sample) == exported[1]
    assert (tmp_path / "again.onnx").read_bytes() == exported[0].read_bytes()


def test_the_file_holds_nothing_of_the_machine(exported: tuple[Path, Signature]) -> None:
    content = exported[0].read_bytes()
    folders = [str(Path.cwd()), str(Path.home()), str(exported[0].parent), *site.getsitepackages()]
    for trace in [*folders, "site-packages", ".py", "pkg.", torch.__version__, "pytorch"]:
        assert trace.encode() not in content, trace
    proto = onnx.load(exported[0])
    described = (proto, proto.graph, *proto.graph.node, *proto.graph.initializer)
    assert not any(thing.doc_string or thing.metadata_props for thing in described)
    assert not proto.graph.value_info


def test_exporting_is_silent_and_leaves_the_model_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model = tiny_bert(num_hidden_layers=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    export(model, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert [w for w in recwarn if issubclass(w.category, UserWarning)] == []
    assert model.config.to_dict() == config
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_without_token_types_has_two_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=97,
        dim=32,
        hidden_dim=48,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    model = DistilBertForSequenceClassification(config).eval()
    signature = export(model, tmp_path / "model.onnx", opset=18)
    assert signature.inputs == ("input_ids", "attention_mask")
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 18
    for rows, tokens in SHAPES:
        inputs = feed(rows, tokens)
        del inputs["token_type_ids"]
        found = run(tmp_path / "model.onnx", inputs)
        np.testing.assert_allclose(found, torch_logits(model, inputs), atol=1e-5, rtol=0)


def test_the_exporter_is_found_by_name() -> None:
    assert "onnx" in exporters.names()
    assert exporters.get("onnx").files["fp32"] == "onnx/model.onnx"


def test_what_cannot_be_exported_is_refused(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match=r"expected a model with a head \(.*\), found BertModel"):
        export(BertModel(BertConfig(**SIZES)).eval(), out)
    with pytest.raises(UsageError, match="training mode"):
        export(tiny_bert().train(), out)
    with pytest.raises(UsageError, match=r"expected float32 weights, found torch\.float16"):
        export(tiny_bert().half(), out)
    with pytest.raises(UsageError, match="opset 7 is not supported"):
        export(bert, out, opset=7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.ones(1, 5, dtype=torch.int64)}, "at least 2 rows"),
        ({"input_ids": torch.ones(2, 1, dtype=torch.int64)}, "at least 2 rows"),
        ({"attention_mask": torch.ones(2, 5)}, "expected torch.int64"),
        ({"token_type_ids": None}, "lacks 'token_type_ids'"),
    ],
)
def test_a_sample_that_would_fix_a_shape_is_refused(
    bert: BertForSequenceClassification,
    tmp_path: Path,
    change: dict[str, torch.Tensor | None],
    message: str,
) -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = {**{name: torch.ones(2, 5, dtype=torch.int64) for name in names}, **change}
    sample = {name: tensor for name, tensor in given.items() if tensor is not None}
    with pytest.raises(UsageError, match=message):
        export(bert, tmp_path / "model.onnx", sample=sample)


def test_weights_beyond_one_file_lie_beside_the_graph(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pair = tmp_path / "whole.onnx", tmp_path / "pair.onnx"
    export(bert, whole)
    monkeypatch.setenv(ONE_FILE, "10000")
    export(bert, pair)
    assert data_of(pair).is_file()
    assert not data_of(whole).exists()
    assert read_model(pair) == onnx.load(whole)


class _BranchForSequenceClassification(BertForSequenceClassification):
    def forward(self, input_ids: torch.Tensor, **others: torch.Tensor) -> object:  # type: ignore[override]
        """Depend on a value, which no graph can express."""
        if input_ids.sum() > 3:
            return super().forward(input_ids, **others)
        raise RuntimeError("never")


def test_a_model_that_cannot_be_traced_fails_in_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _BranchForSequenceClassification(BertConfig(**SIZES)).eval()
    with pytest.raises(StepError, match="cannot be traced") as failure:
        export(model, tmp_path / "model.onnx")
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []
