"""MobileBERT students of teachers of other families."""

from pathlib import Path

import pytest
import torch

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.models.build import build_student
from toolchain.models.checkpoint import inspect
from toolchain.models.family import family_of
from toolchain.models.loading import save_model
from toolchain.plan.thin import thin_spec
from toolchain.recipe import StudentShape
from toolchain.spec import ModelSpec, Task


def spec_of(name: str, task: Task = "classify") -> ModelSpec:
    config = zoo.config_of(name, task)
    return family_of(config.model_type).spec(config.to_dict(), task=task, num_labels=3)


SHAPE = StudentShape(family="mobilebert", inner=8, ffn=16)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra wide"])
@pytest.mark.parametrize("task", ["classify", "tag", "mask_lm"])
def test_a_student_has_its_shape_and_the_teachers_tables(
    name: str, task: Task, tmp_path: Path
) -> None:
    teacher = zoo.make(name, task)
    family = family_of(teacher.config.model_type)
    spec = thin_spec(SHAPE, spec_of(name, task), [])
    student = build_student(teacher, family, spec, "random", seed=0)
    assert zoo.parameters(student) == spec.params()
    assert student.config.model_type == "mobilebert"
    assert student.config.pad_token_id == teacher.config.pad_token_id
    if task != "mask_lm":
        assert student.config.id2label == teacher.config.id2label
    mine, theirs = student.state_dict(), teacher.state_dict()
    # Token embeddings are a quarter as wide as the model, so they start at random.
    assert mine["mobilebert.embeddings.word_embeddings.weight"].shape == (zoo.VOCAB, 8)
    if name == "bert" and task == "classify":
        for same in ("pooler.dense.weight", "embeddings.position_embeddings.weight"):
            assert torch.equal(mine[f"mobilebert.{same}"], theirs[f"bert.{same}"])
        assert torch.equal(mine["classifier.weight"], theirs["classifier.weight"])
    save_model(student, tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    found = inspect(str(tmp_path))
    assert found.family.name == "mobilebert"
    assert found.spec == (spec if task != "mask_lm" else found.spec)
    with torch.no_grad():
        assert torch.isfinite(student(**zoo.batch("mobilebert"))[0]).all()


def test_the_default_shape_is_the_papers_ratio() -> None:
    bert = ModelSpec(
        family="bert", layers=12, width=768, heads=12, ffn=3072, vocab=30522, max_tokens=512,
        num_labels=2,
    )  # fmt: skip
    reasons: list[str] = []
    spec = thin_spec(StudentShape(family="mobilebert"), bert, reasons)
    assert (spec.layers, spec.width, spec.heads) == (12, 768, 12)
    assert (spec.query_width, spec.ffn, spec.embedding_width) == (192, 768, 128)
    assert spec.params() < bert.params() / 3
    assert "128 wide" in reasons[0]


@pytest.mark.parametrize(("shape", "named"), [
    ({"family": "gpt2"}, "student.family"),
    ({"family": "mobilebert", "hidden": 16}, "student.hidden"),
    ({"family": "mobilebert", "inner": 10}, "do not divide"),
    ({"family": "mobilebert", "inner": 32, "ffn": 256}, "more than the teacher"),
])  # fmt: skip
def test_shapes_that_cannot_be_are_refused(shape: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        thin_spec(StudentShape(**shape), spec_of("bert"), [])


def test_a_decoder_has_no_mobilebert_student() -> None:
    with pytest.raises(UsageError, match="one way"):
        thin_spec(SHAPE, spec_of("gpt2"), [])
