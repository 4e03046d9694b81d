"""Text written by a decoder in training: answers to the prompts of a batch, and batches of them.

Prompts are what stands before the first supervised token of a row. Rows are padded on the left to
be continued and on the right to be learned from, as all batches are.

Shape letters: B batch, N tokens, R rows that are continued, W width of the longest prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from toolchain.data.batching import Batch
from toolchain.data.masking import IGNORED

__all__ = ["beams", "end_tokens", "prompts_of", "sampled", "with_answers"]


def prompts_of(batch: Batch) -> list[Tensor]:
    """Return each row's ids up to its first supervised token; whole rows where there is none."""
    supervised_BN = batch.labels != IGNORED
    lengths = batch.mask_BN.sum(-1)
    # Labels stand where they are predicted: the first one is the token after that position.
    first_B = supervised_BN.int().argmax(-1) + 1
    ends = torch.where(supervised_BN.any(-1), first_B, lengths).tolist()
    return [ids[:end] for ids, end in zip(batch.inputs["input_ids"], ends, strict=True)]


def sampled(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    *,
    tau: float,
    seed: int,
    max_new: int,
    mixed: LogitsProcessor | None = None,
) -> list[Tensor]:
    """Return an answer (ids, its end token included) to each prompt, sampled at temperature tau.

    What is `mixed` in changes the scores of each token before it is drawn. The same seed gives the
    same answers; the generators of the process are left as they were.
    """
    config = _config(model, max_new, do_sample=True, temperature=tau, top_k=0, top_p=1.0)
    device = prompts[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        made_RN = _generate(model, prompts, config, mixed)
    return [_ended(ids, end_tokens(model)) for ids in made_RN]


def beams(
    model: PreTrainedModel, prompts: Sequence[Tensor], *, width: int, max_new: int
) -> list[list[Tensor]]:
    """Return the answers beam search ends with for each prompt, the most probable first."""
    config = _config(
        model,
        max_new,
        do_sample=False,
        num_beams=width,
        num_return_sequences=width,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )
    answers = [_ended(ids, end_tokens(model)) for ids in _generate(model, prompts, config)]
    return [answers[i : i + width] for i in range(0, len(answers), width)]


def with_answers(batch: Batch, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> Batch:
    """Return the batch with other answers to its prompts: they alone are supervised."""
    rows = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    longest = max(len(row) for row in rows)
    ids_BN = rows[0].new_zeros(len(rows), longest)
    mask_BN, labels_BN = torch.zeros_like(ids_BN), torch.full_like(ids_BN, IGNORED)
    for b, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        ids_BN[b, : len(row)] = row
        mask_BN[b, : len(row)] = 1
        labels_BN[b, len(prompt) - 1 : len(row) - 1] = row[len(prompt) :]
    # Padding keeps the token the batch had for it, where it had any.
    padding = batch.inputs["input_ids"][batch.mask_BN == 0]
    if len(padding):
        ids_BN[mask_BN == 0] = padding[0]
    return Batch({"input_ids": ids_BN, "attention_mask": mask_BN}, labels_BN, batch.rows)


def end_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the ids that end a text; a model may have none."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def _config(model: PreTrainedModel, max_new: int, **settings: bool | float) -> GenerationConfig:
    ends = end_tokens(model)
    pad = model.generation_config.pad_token_id
    return GenerationConfig(
        max_new_tokens=max_new,
        eos_token_id=list(ends) or None,
        pad_token_id=pad if pad is not None else (ends or (0,))[0],
        use_cache=True,
        **settings,
    )


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    config: GenerationConfig,
    mixed: LogitsProcessor | None = None,
) -> Tensor:
    """Return what follows each prompt, (R, N) or (R * beams, N), padded on the right."""
    width = max(len(prompt) for prompt in prompts)
    ids_RW = prompts[0].new_full((len(prompts), width), int(config.pad_token_id))
    mask_RW = torch.zeros_like(ids_RW)
    for r, prompt in enumerate(prompts):
        ids_RW[r, width - len(prompt) :] = prompt
        mask_RW[r, width - len(prompt) :] = 1
    # Its own annotation asks for a protocol that no model class declares.
    write: Callable[..., object] = GenerationMixin.generate
    with _answering(model, config):
        made_RN = write(
            model,
            input_ids=ids_RW,
            attention_mask=mask_RW,
            logits_processor=LogitsProcessorList([mixed]) if mixed else None,
        )
    assert isinstance(made_RN, Tensor)
    return made_RN[:, width:]


@contextmanager
def _answering(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Generate without dropout and with these settings alone: what a model prefers is put aside."""
    was_training, preferred = model.training, model.generation_config
    model.eval()
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = preferred
        model.train(was_training)


def _ended(ids: Tensor, ends: Sequence[int]) -> Tensor:
    """Cut an answer behind its first end token."""
    stops = torch.isin(ids, ids.new_tensor(list(ends))).nonzero()
    return ids[: int(stops[0]) + 1] if len(stops) else ids
