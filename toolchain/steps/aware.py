"""What the step needs that trains a student for its int8 file: which modules the file has in int8.

Everything is read off the exported file, so that the rounding trained with is that of the file,
whatever its graph was rewritten to.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from toolchain.distill.surgery.fake_int8 import FakeInt8, Product
from toolchain.errors import StepError
from toolchain.models.loading import load_model
from toolchain.optimize.reads import read_products
from toolchain.spec import Task

__all__ = ["rounding_of"]

_Key = tuple[tuple[int, ...], bytes]


def rounding_of(model: Path, exported: Path, task: Task) -> FakeInt8:
    """Return the rounding of the int8 file of a model; `exported` is its file in fp32.

    Raises StepError where the file computes something that no module of the model does.
    """
    loaded = load_model(model, task)
    reads = read_products(exported)
    matrices = _paths(
        (name, _matrix(module))
        for name, module in loaded.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    )
    seen: dict[str, set[bool]] = defaultdict(set)
    for product in reads.products:
        for path in _found(matrices, product.matrix, exported):
            seen[path].add(product.first)
    twice = [path for path, ways in seen.items() if len(ways) > 1]
    if twice:
        raise StepError(
            f"{exported}: {twice[0]} is computed for all tokens and for the first one alone, with "
            "two ranges",
            "set quantize.aware=never",
        )
    embeddings = _paths(
        (name, module.weight.detach().numpy())
        for name, module in loaded.named_modules()
        if isinstance(module, nn.Embedding)
    )
    tables = [path for table in reads.tables for path in _found(embeddings, table, exported)]
    return FakeInt8(
        products=tuple(Product(path, ways.pop()) for path, ways in seen.items()),
        tables=tuple(dict.fromkeys(tables)),
    )


def _matrix(module: nn.Module) -> NDArray[np.float32]:
    """Return the matrix (inputs, outputs) a module multiplies by."""
    assert isinstance(module.weight, torch.Tensor)
    weight: NDArray[np.float32] = module.weight.detach().numpy()
    return weight.T if isinstance(module, nn.Linear) else weight


def _paths(arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[_Key, list[str]]:
    found: dict[_Key, list[str]] = defaultdict(list)
    for path, array in arrays:
        found[_key(array)].append(path)
    return found


def _found(
    known: Mapping[_Key, list[str]], array: NDArray[np.float32], exported: Path
) -> list[str]:
    paths = known.get(_key(array))
    if not paths:
        raise StepError(
            f"{exported}: no module of the model has the {' x '.join(map(str, array.shape))} "
            "weights that the file holds",
            "set quantize.aware=never",
        )
    return paths


def _key(array: NDArray[np.float32]) -> _Key:
    return array.shape, np.ascontiguousarray(array).tobytes()
