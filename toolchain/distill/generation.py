"""Text written by a decoder in training: answers to the prompts of a batch, and batches of them.

Prompts are what stands before the first supervised token of a row. Rows are padded on the left to
be continued and on the right to be learned from, as all batches are.

What is sampled for a row follows from a seed and the row's number, so that ranks say of their rows
what one process says of all.

Shape letters: B batch, N tokens, R rows that are continued, W width of the longest prompt, V
outcomes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
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
from toolchain.distill.mixing import Mixed
from toolchain.distill.ranks import summed

__all__ = ["beams", "end_tokens", "prompts_of", "sampled", "with_answers"]

# The settings of sampling as if there were none: transformers warns of others.
_GREEDY: Mapping[str, bool | float] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}


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
    numbers: Sequence[int] | None = None,
    mixed: Mixed | None = None,
    width: int | None = None,
    abreast: bool = False,
) -> list[Tensor]:
    """Return an answer (ids, its end token included) to each prompt, sampled at temperature tau.

    What is `mixed` in changes the scores of each token before it is drawn. The same seed gives the
    same answer to the prompt of the same number (None: its place), whatever stands beside it; the
    generators of the process are left as they were. Prompts are padded to `width` (None: the
    longest). With `abreast` all ranks run the model, and what is mixed in, equally often: weights
    that are gathered for each pass need all of them in it. A rank without prompts takes part.
    """
    config = _config(model, max_new, **_GREEDY)
    numbers = range(len(prompts)) if numbers is None else numbers
    with _answering(model, config), _abreast(model, mixed) if abreast else nullcontext():
        if not prompts:
            return []
        width = width or max(map(len, prompts))
        luck_RN = np.stack([np.random.default_rng([seed, n]).random(max_new) for n in numbers])
        drawing = _Drawing(torch.from_numpy(luck_RN), tau, width)
        made_RN = _generate(model, prompts, width, config, *([mixed] if mixed else []), drawing)
    return [_ended(ids, end_tokens(model)) for ids in made_RN]


def beams(
    model: PreTrainedModel, prompts: Sequence[Tensor], *, width: int, max_new: int
) -> list[list[Tensor]]:
    """Return the answers beam search ends with for each prompt, the most probable first."""
    config = _config(model, max_new, **_GREEDY, num_beams=width, num_return_sequences=width)
    with _answering(model, config):
        made_RN = _generate(model, prompts, max(map(len, prompts)), config)
    answers = [_ended(ids, end_tokens(model)) for ids in made_RN]
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


class _Drawing(LogitsProcessor):
    """Leaves of each row's outcomes the one its number of this token falls on.

    Probabilities stand one behind the other on a line from 0 to 1, `luck_RN` are places on it
    (inverse transform sampling): exact for places that are uniform. `width` is how long all texts
    are before the first token is drawn.
    """

    def __init__(self, luck_RN: Tensor, tau: float, width: int) -> None:
        self._luck_RN, self._tau, self._width = luck_RN, tau, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, V) -> (R, V): zero at the outcome, minus infinity elsewhere."""
        ends_RV = (scores.double() / self._tau).softmax(-1).cumsum(-1)
        luck_R = self._luck_RN[:, input_ids.shape[1] - self._width].to(scores.device)
        place_R1 = luck_R[:, None] * ends_RV[:, -1:]
        chosen_R1 = torch.searchsorted(ends_RV, place_R1, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_R1, 0.0)


@contextmanager
def _abreast(model: PreTrainedModel, mixed: Mixed | None) -> Iterator[None]:
    """Run the model as often as any rank does: who is done runs it on one token.

    Before each pass ranks say whether they still write; the last time, none does.
    """

    def writes(module: object, args: object) -> None:  # noqa: ARG001
        summed({"writing": 1.0})

    handle = model.register_forward_pre_hook(writes, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        while summed({"writing": 0.0})["writing"]:
            model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
            if mixed:
                mixed.idle()


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    width: int,
    config: GenerationConfig,
    *processors: LogitsProcessor,
) -> Tensor:
    """Return what follows each prompt, (R, N) or (R * beams, N), padded on the right."""
    ids_RW = prompts[0].new_full((len(prompts), width), int(config.pad_token_id))
    mask_RW = torch.zeros_like(ids_RW)
    for r, prompt in enumerate(prompts):
        ids_RW[r, width - len(prompt) :] = prompt
        mask_RW[r, width - len(prompt) :] = 1
    # Its own annotation asks for a protocol that no model class declares.
    write: Callable[..., object] = GenerationMixin.generate
    made_RN = write(
        model,
        input_ids=ids_RW,
        attention_mask=mask_RW,
        logits_processor=LogitsProcessorList(processors),
        # Ranks that keep together do so themselves.
        synced_gpus=False,
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
