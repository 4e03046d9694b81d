"""What a model with any head answered, as one tensor."""

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

__all__ = ["logits_of"]


def logits_of(output: ModelOutput) -> Tensor:
    """Return logits (B, C) or (B, N, C); of a model for questions (B, N, 2), begin and end."""
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    logits: Tensor = output["logits"]
    return logits
