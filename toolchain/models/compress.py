"""A model cut down to a vocabulary: rows of its token embeddings and of its language head."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from toolchain.models.loading import quiet
from toolchain.models.vocabulary import Vocabulary

__all__ = ["select_tokens", "token_embeddings"]


def token_embeddings(model: PreTrainedModel) -> NDArray[np.float32]:
    """Return the table of token embeddings (V, D)."""
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return table.detach().float().cpu().numpy()


def select_tokens(model: PreTrainedModel, vocabulary: Vocabulary) -> PreTrainedModel:
    """Return a new model with the kept tokens alone, in the order of their new ids.

    Every weight with a row per token (embeddings, language head and its bias) loses the others;
    all else is equal. Ids of special tokens in the configuration become new ones.
    """
    quiet()
    config = copy.deepcopy(model.config)
    config.vocab_size = len(vocabulary)
    _renumber(config, vocabulary)
    small = type(model)(config)
    torch.nn.Module.to(small, dtype=model.dtype)
    expected, rows_K = small.state_dict(), torch.from_numpy(vocabulary.kept)
    weights = {}
    for name, value in model.state_dict().items():
        cut = value.shape != expected[name].shape
        weights[name] = value.cpu()[rows_K] if cut else value
    small.load_state_dict(weights, strict=True)
    small.train(model.training)
    return small


def _renumber(config: PretrainedConfig, vocabulary: Vocabulary) -> None:
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            ids = vocabulary.map(np.asarray(value, dtype=np.int64)).tolist()
            setattr(config, name, ids)
