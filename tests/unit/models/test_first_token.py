"""The last block for its first token alone: the same answers, and only then."""

import pytest
import torch

from tests.unit.models import zoo
from toolchain.models.family import families
from toolchain.models.first_token import first_token_alone

BERT_LIKE = ["bert", "distilbert", "electra", "roberta"]


@pytest.mark.parametrize("name", BERT_LIKE)
def test_the_answers_are_those_of_the_whole_block(name: str) -> None:
    model, family = zoo.make(name, "classify"), families.get(name)
    ids = torch.randint(5, zoo.VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    heights = []
    block = model.get_submodule(f"{family.backbone}.{family.blocks}")[-1]
    block.register_forward_hook(lambda *args: heights.append(args[2].shape[1]))
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits
        with first_token_alone(model, family):
            short = model(input_ids=ids, attention_mask=mask).logits
        after = model(input_ids=ids, attention_mask=mask).logits
    assert heights == [9, 1, 9]
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(after, whole)


@pytest.mark.parametrize("name", families.names())
def test_only_heads_that_read_one_token_of_a_block_that_is_laid_out_so(name: str) -> None:
    family = families.get(name)
    assert family.reads_first_token("classify") is (name in BERT_LIKE)
    assert not family.reads_first_token("tag")
    assert not family.reads_first_token("mask_lm")
