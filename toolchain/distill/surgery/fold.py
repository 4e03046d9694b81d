"""Masks folded into weights, and what they close cut out: an ordinary, smaller model."""

import copy
from typing import TYPE_CHECKING

from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from toolchain.distill.surgery.masks import Cut
    from toolchain.distill.teachers import TrainingModel
else:
    torch = lazy("torch")

__all__ = ["cut_out"]


def cut_out(student: "TrainingModel", cut: "Cut") -> None:
    """Make the student, in place, the smaller model that computes the same.

    Its configuration says the new shape; its modules are new, without hooks.
    """
    model = student.model
    config = copy.deepcopy(model.config)
    for key, value in student.family.config_changes(cut.spec).items():
        setattr(config, key, value)
    smaller = type(model)(config)
    smaller.load_state_dict(_weights(student, cut), strict=True)
    torch.nn.Module.to(smaller, next(model.parameters()).device).train(model.training)
    for name, child in smaller.named_children():
        setattr(model, name, child)
    model.config = smaller.config


def _weights(student: "TrainingModel", cut: "Cut") -> "dict[str, Tensor]":
    """Return the state of the smaller model."""
    family, model = student.family, student.model
    blocks = family.block_prefix(1).removesuffix("0.")
    last = family.head(student.spec.task).last
    weights: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if not name.startswith(blocks):
                outside = _outside(module, cut, classifies=name == last)
                weights |= {f"{name}.{key}": value for key, value in outside.items()}
        for target, source in enumerate(cut.blocks):
            found = _block(student, model.get_submodule(f"{blocks}{source}"), source, cut)
            weights |= {f"{blocks}{target}.{key}": value for key, value in found.items()}
    return weights


def _outside(module: "nn.Module", cut: "Cut", *, classifies: bool) -> "dict[str, Tensor]":
    """Return what is left of a module outside the blocks."""
    hidden, gate = cut.hidden, cut.masks.hidden_D[cut.hidden]
    if isinstance(module, torch.nn.Embedding):
        return {"weight": module.weight[:, hidden]}
    if isinstance(module, torch.nn.LayerNorm):
        return {"weight": module.weight[hidden] * gate, "bias": module.bias[hidden] * gate}
    if not isinstance(module, torch.nn.Linear):
        return {}
    if classifies:
        return {"weight": module.weight[:, hidden] * gate, "bias": module.bias}
    return {"weight": module.weight[hidden][:, hidden], "bias": module.bias[hidden]}


def _block(
    student: "TrainingModel", block: "nn.Module", layer: int, cut: "Cut"
) -> "dict[str, Tensor]":
    """Return what is left of one block."""
    family, spec, masks = student.family, student.spec, cut.masks
    assert family.out is not None
    assert family.ffn is not None
    hidden, gate = cut.hidden, masks.hidden_D[cut.hidden]
    heads, inner = cut.heads[layer], cut.inner[layer]
    features = torch.arange(spec.head_width, device=heads.device)
    rows = (heads[:, None] * spec.head_width + features).flatten()
    of_heads = masks.heads_LH[layer][heads].repeat_interleave(spec.head_width)
    weights: dict[str, Tensor] = {}
    for path in (family.query, family.key, family.value):
        weights |= _linear(block, path, rows, hidden)
    weights |= _linear(block, family.ffn[0], inner, hidden)
    out = (of_heads, gate * masks.attention_L[layer])
    weights |= _linear(block, family.out, hidden, rows, *out)
    second = (masks.inner_LF[layer][inner], gate * masks.ffn_L[layer])
    weights |= _linear(block, family.ffn[1], hidden, inner, *second)
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            weights[f"{name}.weight"] = module.weight[hidden] * gate
            weights[f"{name}.bias"] = module.bias[hidden] * gate
    return weights


def _linear(
    block: "nn.Module",
    path: str,
    rows: "Tensor",
    columns: "Tensor",
    of_columns: "Tensor | None" = None,
    of_rows: "Tensor | None" = None,
) -> "dict[str, Tensor]":
    """Return the chosen rows and columns of a linear layer, times their masks."""
    linear = block.get_submodule(path)
    assert isinstance(linear, torch.nn.Linear)
    weight, bias = linear.weight[rows][:, columns], linear.bias[rows]
    if of_columns is not None and of_rows is not None:
        weight, bias = of_rows[:, None] * weight * of_columns, of_rows * bias
    return {f"{path}.weight": weight, f"{path}.bias": bias}
