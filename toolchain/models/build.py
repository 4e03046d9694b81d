"""A student from a shape: which of the teacher's weights it starts from, and why.

Whole layers of equal width are worth about as much as a pre-training of one's own; slices of wider
layers are as bad as random (methods.md section 6.4), so widths are never cut.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from toolchain.layermap import LayerMap
from toolchain.models.family import Family
from toolchain.models.initialise import Init, copied_layers
from toolchain.models.loading import quiet
from toolchain.spec import ModelSpec

__all__ = ["build_student"]


def build_student(
    teacher: PreTrainedModel, family: Family, spec: ModelSpec, init: Init, *, seed: int
) -> PreTrainedModel:
    """Return a new classifier of shape `spec`, in evaluation mode.

    Unless `init` is "random", embeddings, pooler, head and the chosen blocks are copied.
    """
    quiet()
    config = copy.deepcopy(teacher.config)
    for key, value in family.config_changes(spec).items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    student: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32
    )
    if init != "random":
        layers = copied_layers(init, spec.layers, teacher.config.num_hidden_layers)
        weights = _copied(teacher.state_dict(), family, layers)
        student.load_state_dict(weights, strict=True)
    student.eval()
    return student


def _copied(weights: Mapping[str, Tensor], family: Family, layers: LayerMap) -> dict[str, Tensor]:
    blocks = f"{family.backbone}.{family.blocks}."
    copied = {name: value for name, value in weights.items() if not name.startswith(blocks)}
    for s, t in layers:
        source, target = family.block_prefix(t), family.block_prefix(s)
        for name, value in weights.items():
            if name.startswith(source):
                copied[target + name.removeprefix(source)] = value
    return copied
