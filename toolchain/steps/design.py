"""The step that makes the student: a shape, and the teacher's weights it starts from."""

from collections.abc import Sequence
from pathlib import Path

from toolchain.artifact import Draft
from toolchain.export.tokenizer import save_tokenizer
from toolchain.export.vocabulary import save_compressed_tokenizer
from toolchain.layermap import LayerMap
from toolchain.models.build import build_student
from toolchain.models.compress import select_tokens
from toolchain.models.family import Family
from toolchain.models.initialise import Init
from toolchain.models.loading import load_model, save_model
from toolchain.models.vocabulary import write_vocabulary
from toolchain.spec import ModelSpec
from toolchain.steps.tokens import choose_tokens

__all__ = ["design"]

# Texts on which a rewritten tokenizer is proved, beside those that probe it.
_PROVED = 1000


def design(
    draft: Draft,
    *,
    teacher: Path,
    family: Family,
    spec: ModelSpec,
    init: Init,
    copied: LayerMap,
    seed: int,
    texts: Sequence[str] = (),
) -> None:
    """Write an untrained student of shape `spec` with the teacher's tokenizer.

    One with fewer tokens keeps those that `texts` use most.
    """
    source = load_model(teacher, spec.task)
    vocabulary = None
    if spec.vocab < source.config.get_text_config().vocab_size:
        vocabulary = choose_tokens(teacher, source, texts, spec.vocab)
        source = select_tokens(source, vocabulary)
    student = build_student(source, family, spec, init, seed=seed)
    save_model(student, draft.folder)
    if vocabulary:
        save_compressed_tokenizer(teacher, draft.folder, vocabulary, texts[:_PROVED])
        write_vocabulary(draft.folder, vocabulary)
    else:
        save_tokenizer(teacher, draft.folder)
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(
        shape=str(spec),
        init=init,
        layer_map=str(copied),
        parameters=sum(p.numel() for p in student.parameters()),
    )
