"""The step that writes down of a bare encoder how its states become embeddings."""

from pathlib import Path

from toolchain.artifact import Draft
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.loading import load_model, save_model
from toolchain.models.sentence import Sentence, write_sentence

__all__ = ["pool"]


def pool(draft: Draft, *, source: Path, sentence: Sentence) -> None:
    """Write the encoder in folder `source` with its pooling; a head it has is left behind."""
    model = load_model(source, "embed")
    save_model(model, draft.folder)
    write_sentence(draft.folder, sentence, width=int(model.config.get_text_config().hidden_size))
    save_tokenizer(source, draft.folder)
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(
        pooling=sentence.pooling, parameters=sum(p.numel() for p in model.parameters())
    )
