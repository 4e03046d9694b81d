"""Several models behind one head: fine-tuned together, their hidden spaces come to agree.

MT-BERT (Wu et al. 2021, arXiv 2106.01023). Shape letters: B batch, N tokens, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from toolchain.models.family import Family
from toolchain.models.outputs import logits_of
from toolchain.spec import Task

__all__ = ["JointModels"]


class JointModels(nn.Module):
    """Models of one family that share the first one's head.

    While it trains, a batch holds every row once per model, one model after another (`Repeat`), and
    each model answers its own part. In evaluation mode every model answers the whole batch, and
    the answer is the mean of their logits.
    """

    def __init__(self, models: Sequence[PreTrainedModel], family: Family, task: Task) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.config = models[0].config
        for prefix in family.head(task).parameters:
            path = prefix.removesuffix(".")
            for other in models[1:]:
                other.set_submodule(path, models[0].get_submodule(path))

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return logits (B, C), or (B, N, C) where every token is answered for."""
        if not self.training:
            answers = [logits_of(model(**inputs)) for model in self.models]
            return SequenceClassifierOutput(logits=torch.stack(answers).mean(0))
        parts = [
            {name: tensor.chunk(len(self.models))[k] for name, tensor in inputs.items()}
            for k in range(len(self.models))
        ]
        answers = [logits_of(model(**part)) for model, part in zip(self.models, parts, strict=True)]
        return SequenceClassifierOutput(logits=torch.cat(answers))
