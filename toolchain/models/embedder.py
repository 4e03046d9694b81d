"""A bare encoder with a pooling behind it: a text's states become one vector.

It stands where a model with a head would: what it gives is called logits there, (B, D).

Shape letters: B batch, N tokens, D width.
"""

import copy
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from toolchain.models.family import family_of
from toolchain.models.sentence import Pooling, Sentence, write_sentence

__all__ = ["SentenceEncoder", "pooled"]

_KEY = "sentence"


class SentenceEncoder(nn.Module):
    """The encoder under the name its family gives it in models with heads, and how it is pooled.

    The configuration carries what `Sentence` holds, so that a model of another shape can be made
    from it alone. The encoder's own pooler, which nothing reads, is dropped.
    """

    def __init__(self, config: PretrainedConfig, body: PreTrainedModel | None = None) -> None:
        super().__init__()
        body = body if body is not None else AutoModel.from_config(config, dtype=torch.float32)
        family = family_of(config.model_type)
        if family.parts.pooler:
            body.pooler = None
        self.config = config
        self.sentence = Sentence(**getattr(config, _KEY, {}))
        self._backbone = family.backbone
        self._typed = "token_type_ids" in inspect.signature(body.forward).parameters
        self.add_module(family.backbone, body)

    @property
    def body(self) -> PreTrainedModel:
        """The bare encoder."""
        found = self.get_submodule(self._backbone)
        assert isinstance(found, PreTrainedModel)
        return found

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        return_dict: bool = True,  # noqa: ARG002 - as models with heads are called
    ) -> SequenceClassifierOutput:
        """Return the embeddings (B, D) as `logits`, for ids and mask (B, N)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._typed and token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states_BND = self.body(**inputs).last_hidden_state
        vectors_BD = pooled(states_BND.float(), attention_mask, self.sentence.pooling)
        if self.sentence.normalize:
            vectors_BD = nn.functional.normalize(vectors_BD, dim=-1)
        return SequenceClassifierOutput(logits=vectors_BD)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings."""
        found: nn.Module = self.body.get_input_embeddings()
        return found

    def tie_weights(self) -> None:
        """Do nothing: no two parameters are one."""

    def save(self, folder: Path) -> None:
        """Write the bare encoder, and beside it what makes the folder one of sentence-transformers.

        How states are pooled is written there alone, not in config.json.
        """
        config = copy.deepcopy(self.config)
        config.__dict__.pop(_KEY, None)
        body, own = self.body, self.body.config
        body.config = config
        body.save_pretrained(folder, safe_serialization=True)
        # A copy does not know by which kernel attention is computed.
        body.config = own
        width = int(self.config.get_text_config().hidden_size)
        write_sentence(folder, self.sentence, width=width)


def pooled(states_BND: Tensor, mask_BN: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector per text (B, D) from the states of its real tokens."""
    real_BN1 = mask_BN[:, :, None].bool()
    match pooling:
        case "cls":
            return states_BND[:, 0]
        case "max":
            return states_BND.masked_fill(~real_BN1, float("-inf")).amax(1)
        case "mean":
            weights_BN1 = mask_BN[:, :, None].to(states_BND.dtype)
            return (states_BND * weights_BN1).sum(1) / weights_BN1.sum(1).clamp(min=1e-9)
