"""A student from a shape: which of the teacher's weights it starts from, and why.

Whole layers of equal width are worth about as much as a pre-training of one's own; slices of wider
layers are as bad as random (methods.md section 6.4), so widths are never cut.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from toolchain import layermap
from toolchain.errors import UsageError
from toolchain.layermap import LayerMap
from toolchain.models.family import Family, families
from toolchain.models.foreign import build_foreign
from toolchain.models.initialise import Init, copied_layers
from toolchain.models.loading import quiet
from toolchain.spec import ModelSpec

__all__ = ["build_student"]


def build_student(
    teacher: PreTrainedModel, family: Family, spec: ModelSpec, init: Init, *, seed: int
) -> PreTrainedModel:
    """Return a new model of shape `spec` for the teacher's task, in fp32 and evaluation mode.

    Unless `init` is "random", the chosen blocks and everything outside the blocks are copied:
    embeddings, norms, head. A student of another family gets what `build_foreign` says. Raises
    UsageError when the teacher's blocks do not fit.
    """
    quiet()
    if spec.family != family.name:
        return build_foreign(teacher, family, families.get(spec.family), spec, seed=seed)
    depth = teacher.config.num_hidden_layers
    layers = copied_layers(init, spec.layers, depth)
    if layers.pairs and not spec.same_blocks(family.spec(teacher.config.to_dict())):
        raise UsageError(
            f"student: the teacher's blocks do not fit into {spec}",
            "give it the teacher's width, heads and ffn, or set student.init=random",
        )
    config = copy.deepcopy(teacher.config)
    for key, value in family.config_changes(spec).items():
        setattr(config, key, value)
    _choose_layer_types(config, layers, depth)
    torch.manual_seed(seed)
    # The class itself: a model for another task would have another head to copy.
    student: PreTrainedModel = type(teacher)(config).float()
    if layers.pairs:
        blocks = family.block_prefix(1).removesuffix("0.")
        if family.backbone not in dict(teacher.named_children()):
            blocks = blocks.removeprefix(f"{family.backbone}.")
        student.load_state_dict(_copied(teacher.state_dict(), blocks, layers), strict=True)
    student.eval()
    return student


def _copied(weights: Mapping[str, Tensor], blocks: str, layers: LayerMap) -> dict[str, Tensor]:
    copied = {name: value for name, value in weights.items() if not name.startswith(blocks)}
    for s, t in layers:
        source, target = f"{blocks}{t - 1}.", f"{blocks}{s - 1}."
        for name, value in weights.items():
            if name.startswith(source):
                copied[target + name.removeprefix(source)] = value
    return copied


def _choose_layer_types(config: PretrainedConfig, layers: LayerMap, depth: int) -> None:
    """Keep the kind of attention (full or a window) of the blocks that are copied."""
    kinds = config.to_dict().get("layer_types")
    if kinds:
        count = config.num_hidden_layers
        chosen = layers if layers.pairs else layermap.uniform(count, depth)
        config.layer_types = [kinds[max(t, 1) - 1] for _, t in chosen]
