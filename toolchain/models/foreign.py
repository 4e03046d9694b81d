"""A student of another family than its teacher: what both call by one name and shape is copied.

Blocks of another kind start at random; tables of embeddings and the head may be the teacher's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from toolchain.errors import UsageError
from toolchain.models.family import Family
from toolchain.models.loading import new_model
from toolchain.spec import ModelSpec

__all__ = ["build_foreign", "copied_names"]

_TABLES = ("embeddings.word_embeddings", "embeddings.position_embeddings",
           "embeddings.token_type_embeddings")  # fmt: skip


def build_foreign(
    teacher: PreTrainedModel, source: Family, target: Family, spec: ModelSpec, *, seed: int
) -> PreTrainedModel:
    """Return a model of shape `spec` and family `target`, in fp32 and evaluation mode.

    Raises UsageError when family and shape do not belong together.
    """
    if spec.family != target.name:
        raise UsageError(f"student: a shape of family {spec.family} for a {target.name} model")
    theirs = teacher.config.to_dict()
    config = AutoConfig.for_model(target.model_types[0])
    for key, value in target.config_changes(spec).items():
        setattr(config, key, value)
    for key in ("id2label", "label2id", "problem_type", "pad_token_id", "tie_word_embeddings",
                "sentence"):  # fmt: skip
        if theirs.get(key) is not None:
            setattr(config, key, getattr(teacher.config, key))
    torch.manual_seed(seed)
    student = new_model(config, spec.task)
    weights = student.state_dict()
    known = teacher.state_dict()
    for name, theirs_name in copied_names(weights, known, source, target, spec).items():
        weights[name] = known[theirs_name]
    student.load_state_dict(weights, strict=True)
    return student


def copied_names(
    weights: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    source: Family,
    target: Family,
    spec: ModelSpec,
) -> dict[str, str]:
    """Return the student's tensors that are the teacher's, with the names they have there."""
    wanted = [f"{target.backbone}.{table}." for table in _TABLES]
    wanted += target.head(spec.task).parameters if spec.task != "encode" else ()
    found = {}
    for name, value in weights.items():
        theirs = name.replace(f"{target.backbone}.", f"{source.backbone}.", 1)
        same = theirs in known and known[theirs].shape == value.shape
        if same and name.startswith(tuple(wanted)):
            found[name] = theirs
    return found
