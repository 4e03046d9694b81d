"""genai_config.json: with it ONNX Runtime GenAI opens the folder of an exported decoder as it is.

The loop that goes on token by token, with sampling and beams, is then GenAI's own. Its type
"decoder" takes names of inputs and outputs from this file, so it holds for every family. The
cache grows by concatenation: buffers that past and present share need another graph.
"""

import json
from collections.abc import Mapping
from typing import Any

from toolchain.models.family import family_of

__all__ = ["GENAI_CONFIG", "genai_config"]

GENAI_CONFIG = "genai_config.json"


def genai_config(config: Mapping[str, Any], file: str) -> str:
    """Return its content for a decoder with this config.json whose graph lies at `file` beside it.

    Raises UsageError for an unknown family.
    """
    spec = family_of(str(config["model_type"])).spec(config)
    ends = config.get("eos_token_id")
    padding = config.get("pad_token_id")
    first_end = ends[0] if isinstance(ends, list) else ends
    model = {
        "type": "decoder",
        "vocab_size": spec.vocab,
        "context_length": spec.max_tokens,
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": ends,
        # Rows are padded with something, and a model without a token for it ends with one.
        "pad_token_id": first_end if padding is None else padding,
        "decoder": {
            "filename": file,
            "session_options": {"provider_options": []},
            "hidden_size": spec.width,
            "head_size": spec.head_width,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads,
            "num_hidden_layers": spec.layers,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "position_ids": "position_ids",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    search = {
        "do_sample": False,
        "num_beams": 1,
        "max_length": spec.max_tokens,
        "past_present_share_buffer": False,
    }
    known = {key: value for key, value in model.items() if value is not None}
    return json.dumps({"model": known, "search": search}, indent=2) + "\n"
