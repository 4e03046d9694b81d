"""Logits of a whole split, in the order of its rows. Used while training and for final figures."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from toolchain.data.batching import Rows, in_order

__all__ = ["logits_of_rows"]


def logits_of_rows(
    model: PreTrainedModel, rows: Rows, *, batch_size: int = 64, bf16: bool = False
) -> NDArray[np.float32]:
    """Return logits (R, C) in float32; the model's mode is restored afterwards."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits_RC: NDArray[np.float32] | None = None
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for batch in in_order(rows, batch_size):
            logits_BC = model(**batch.to(device).inputs).logits.float().cpu().numpy()
            if logits_RC is None:
                logits_RC = np.empty((len(rows), logits_BC.shape[1]), dtype=np.float32)
            logits_RC[list(batch.rows)] = logits_BC
    model.train(was_training)
    assert logits_RC is not None, "no rows to evaluate"
    return logits_RC
