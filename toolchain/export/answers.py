"""What the graph of a model with some head gives: which output, and which of its axes are free."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ANSWERS", "ENDS", "Answer", "answer_of"]


@dataclass(frozen=True)
class Answer:
    """What models whose class names have one of these endings answer.

    `axes` names the free axes of each of its `outputs`, "" where the size is fixed; the last one
    has a figure per outcome. A `cached` model also takes and gives what it remembers of the tokens
    before.
    """

    endings: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[str, ...]
    cached: bool = False


ENDS = ("start_logits", "end_logits")
"""What a model for questions gives: where an answer begins, where it ends."""

_ROW, _TOKEN = ("batch", ""), ("batch", "sequence", "")

ANSWERS = (
    Answer(("ForSequenceClassification",), ("logits",), _ROW),
    Answer(("ForTokenClassification", "ForMaskedLM"), ("logits",), _TOKEN),
    # The names that transformers gives them: where an answer begins, where it ends.
    Answer(("ForQuestionAnswering",), ENDS, ("batch", "sequence")),
    Answer(("ForCausalLM", "LMHeadModel"), ("logits",), _TOKEN, cached=True),
    # The name that sentence-transformers gives it.
    Answer(("SentenceEncoder",), ("sentence_embedding",), _ROW),
)


def answer_of(model: "PreTrainedModel") -> Answer:
    """Return what a model answers. Raises UsageError for one with no head or another one."""
    kind = type(model).__name__
    for answer in ANSWERS:
        if kind.endswith(answer.endings):
            return answer
    known = ", ".join(f"...{ending}" for answer in ANSWERS for ending in answer.endings)
    raise UsageError(f"export: expected a model with a head ({known}), found {kind}")
