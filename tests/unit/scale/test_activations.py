"""What the formulas say a pass keeps is what autograd saves, block by block, in every family."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from tests.unit.models import zoo
from toolchain.models.family import family_of
from toolchain.models.first_token import first_token_alone
from toolchain.scale.activations import (
    Kernels,
    block_bytes,
    cast_bytes,
    ends_bytes,
    first_token_bytes,
)
from toolchain.spec import ModelSpec, Task

B, N = 3, 64
# Large enough that what does not grow with the sizes is small beside what does.
_WIDE = {
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 320,
    "max_position_embeddings": 80,
    "vocab_size": 600,
}
SIZES: dict[str, dict[str, object]] = {
    "bert": _WIDE,
    "roberta": _WIDE,
    "distilbert": {
        "dim": 96, "n_heads": 4, "hidden_dim": 320, "max_position_embeddings": 80,
        "vocab_size": 600,
    },
    "mpnet": _WIDE,
    "deberta-v3": _WIDE,
    "mobilebert": {**_WIDE, "intra_bottleneck_size": 48, "embedding_size": 96},
    "gpt2": {"n_embd": 96, "n_head": 4, "n_positions": 80, "vocab_size": 600},
    "llama": {**_WIDE, "num_key_value_heads": 2},
    "llama tied": {**_WIDE, "num_key_value_heads": 4},
    "qwen3": {**_WIDE, "num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip


def saved(
    name: str, layers: int, *, bf16: bool, task: Task, alone: bool = False, **changes: object
) -> int:
    """Return the bytes autograd saves of one pass, each storage once, weights left out.

    `alone` computes the last block for its first token alone.
    """
    key = {"gpt2": "n_layer", "distilbert": "n_layers"}.get(name, "num_hidden_layers")
    model = zoo.make(name, task, **{**SIZES[name], key: layers, **changes}).train()
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    # Storages are kept alive, so that no two have one address.
    found: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    mask = torch.ones(B, N, dtype=torch.long)
    mask[1:, N // 2 :] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    short = nullcontext()
    if alone:
        short = first_token_alone(model, family_of(model.config.model_type))
    with short, hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(input_ids=torch.randint(3, 600, (B, N)), attention_mask=mask)
    del output
    return sum(size for size, _ in found.values())


def spec_of(name: str, layers: int, task: Task, **changes: object) -> ModelSpec:
    key = {"gpt2": "n_layer", "distilbert": "n_layers"}.get(name, "num_hidden_layers")
    config = zoo.config_of(name, task, **{**SIZES[name], key: layers, **changes}).to_dict()
    labels = len(zoo.LABELS) if task == "classify" else 0
    return family_of(config["model_type"]).spec(config, task=task, num_labels=labels)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", SIZES)
def test_a_block_keeps_what_the_formula_says(name: str, bf16: bool) -> None:
    task: Task = "causal_lm" if name in zoo.DECODERS else "classify"
    one, two = (saved(name, layers, bf16=bf16, task=task) for layers in (1, 2))
    kernels = Kernels(bf16=bf16, gpu=False)
    specs = [spec_of(name, layers, task) for layers in (1, 2)]
    casts = cast_bytes(specs[1], kernels) - cast_bytes(specs[0], kernels)
    assert block_bytes(specs[0], B, N, kernels) + casts == pytest.approx(two - one, rel=0.05)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_without_dropout_attention_keeps_no_maps(bf16: bool) -> None:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    one, two = (saved("bert", n, bf16=bf16, task="classify", **off) for n in (1, 2))
    kernels = Kernels(bf16=bf16, gpu=False)
    with_maps, without = spec_of("bert", 1, "classify"), spec_of("bert", 1, "classify", **off)
    assert block_bytes(without, B, N, kernels) < 0.7 * block_bytes(with_maps, B, N, kernels)
    casts = kernels.element * without.block_params() if bf16 else 0
    assert block_bytes(without, B, N, kernels) + casts == pytest.approx(two - one, rel=0.05)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "mobilebert"])
def test_ends_keep_what_the_formula_says(name: str) -> None:
    task: Task = "causal_lm" if name in zoo.DECODERS else "classify"
    one, two = (saved(name, layers, bf16=False, task=task) for layers in (1, 2))
    kernels = Kernels(bf16=False, gpu=False)
    ends = ends_bytes(spec_of(name, 1, task), B, N, kernels)
    # Relative to the whole of a small model: pooled vectors and ids are left out.
    assert ends == pytest.approx(2 * one - two, abs=0.06 * one)


def test_gpu_kernels_keep_byte_masks_and_no_maps() -> None:
    spec = spec_of("bert", 1, "classify")
    cpu, gpu = (block_bytes(spec, B, N, Kernels(bf16=True, gpu=g)) for g in (False, True))
    maps = B * spec.heads * N * N * 12
    scaled = B * N * (12 - 2 * 3) * spec.width - B * N * (4 * spec.heads + 2 * N)
    masks = B * N * 2 * spec.width
    assert cpu - gpu == maps + scaled + masks


@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_last_block_for_its_first_token_keeps_keys_and_values(
    name: str, bf16: bool, dropout: float
) -> None:
    rate = "attention_dropout" if name == "distilbert" else "attention_probs_dropout_prob"
    found = saved(name, 2, bf16=bf16, task="classify", alone=True, **{rate: dropout})
    spec, kernels = spec_of(name, 2, "classify", **{rate: dropout}), Kernels(bf16=bf16, gpu=False)
    parts = (block_bytes, first_token_bytes, ends_bytes)
    planned = sum(part(spec, B, N, kernels) for part in parts) + cast_bytes(spec, kernels)
    assert planned == pytest.approx(found, rel=0.1)
