import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.utils import logging as transformers_logging

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.runtimes.adapters.pytorch import open_session

SHAPE = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=3,
)


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    BertForSequenceClassification(SHAPE).save_pretrained(tmp_path)
    return tmp_path


def opened(folder, threads=1):
    return open_session(folder, threads=threads, provider="CPUExecutionProvider")


def feed(*shape):
    ids = np.random.default_rng(0).integers(1, 100, shape)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_logits_are_those_of_transformers(folder):
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    batch = feed(2, 7)
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(x) for name, x in batch.items()}).logits
    logits = opened(folder).run(batch)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected.numpy())


def test_dropout_is_off(folder):
    session = opened(folder)
    np.testing.assert_array_equal(session.run(feed(1, 9)), session.run(feed(1, 9)))


def test_attention_is_sdpa_and_weights_are_fp32_even_when_saved_as_bf16(tmp_path):
    BertForSequenceClassification(SHAPE).to(torch.bfloat16).save_pretrained(tmp_path)
    model = opened(tmp_path)._model
    assert model.config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_inputs_the_model_does_not_take_are_left_out(folder):
    session = opened(folder)
    odd = {**feed(1, 4), "special_tokens_mask": np.zeros((1, 4), dtype=np.int64)}
    np.testing.assert_array_equal(session.run(odd), session.run(feed(1, 4)))


def test_a_feed_without_input_ids_is_refused(folder):
    with pytest.raises(UsageError, match="asks for 'input_ids', the feed has attention_mask"):
        opened(folder).run({"attention_mask": np.ones((1, 4), dtype=np.int64)})


def test_a_feed_the_model_cannot_take_is_named_by_its_shape(folder):
    with pytest.raises(StepError, match="failed on a feed of shape 1 x 600"):
        opened(folder).run(feed(1, 600))


def test_threads_hold_for_the_process(folder):
    opened(folder, threads=2)
    assert torch.get_num_threads() == 2


def test_opening_prints_nothing_and_leaves_the_logging_of_transformers_as_it_was(folder, capfd):
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    opened(folder)
    assert capfd.readouterr() == ("", "")
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before


def test_an_encoder_without_a_head_is_refused_instead_of_given_a_random_one(tmp_path):
    BertModel(SHAPE).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"2 weights are missing, 'classifier\.bias' among them"):
        opened(tmp_path)


def test_weights_of_another_shape_than_the_configuration_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"6 weights differ in shape from config\.json"):
        opened(folder)


def test_damaged_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="damaged weights"):
        opened(folder)


def test_a_damaged_configuration_is_refused(folder):
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(IntegrityError, match=r"config\.json: not valid JSON"):
        opened(folder)


def test_an_unknown_architecture_is_refused_in_one_sentence(folder):
    (folder / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(UsageError, match=r"cannot be opened for classify: .*abacus") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_before_loading(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(UsageError, match="no "):
        opened(folder)


def test_a_file_is_not_a_folder(folder):
    with pytest.raises(UsageError, match="a file, PyTorch opens a Hugging Face folder"):
        opened(folder / "config.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(folder):
    with pytest.raises(UsageError, match="no CUDA device"):
        open_session(folder, threads=1, provider="CUDAExecutionProvider")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_logits_of_the_processor(folder):
    session = open_session(folder, threads=1, provider="CUDAExecutionProvider")
    np.testing.assert_allclose(
        session.run(feed(2, 7)), opened(folder).run(feed(2, 7)), atol=1e-4, rtol=0
    )
