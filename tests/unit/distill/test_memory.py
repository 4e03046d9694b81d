"""The formula of what a loss holds, against what it really allocates, for every method."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.unit.distill.conftest import (
    bound_terms,
    context_of,
    decoder_of,
    denominators_of,
    loss_of,
    make_side,
)
from tests.unit.distill.live_bytes import LiveBytes
from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.capture import Captures
from toolchain.distill.catalogue import loss_sizes
from toolchain.distill.distiller import Distiller
from toolchain.distill.memory import bound_bytes, loss_bytes, stage_bytes
from toolchain.distill.seen import Seen
from toolchain.distill.term import BoundTerm, Term, bind, find_method, methods
from toolchain.errors import UsageError
from toolchain.spec import ModelSpec

# So many outcomes that logits are not lost among the small tensors every loss has.
TEACHER = ModelSpec(
    family="bert", layers=4, width=96, heads=4, ffn=192, vocab=50, max_tokens=64, num_labels=500
)
STUDENTS = (TEACHER.reshaped(layers=2), TEACHER)
SIZES = ((4, 32), (8, 64))
AT_LEAST, AT_MOST = 0.5, 1.3


def student_of(method: str) -> tuple[ModelSpec, dict[str, tuple[BoundTerm, ...]]]:
    """The first student the method accepts; some want its teacher's depth."""
    for student in STUDENTS:
        try:
            return student, bound_terms(method, student, TEACHER)
        except UsageError:
            if student is STUDENTS[-1]:
                raise
    raise AssertionError


def captured(spec: ModelSpec, batch: int, tokens: int, seed: int) -> dict[object, Tensor]:
    side = make_side(spec, batch, tokens, seed)
    return {r: x.detach().float().requires_grad_(seed == 1) for r, x in side.tensors.items()}


def peak(terms: tuple[BoundTerm, ...], student: ModelSpec, batch: int, tokens: int) -> int:
    """The most bytes that loss and gradient hold beside what the models gave."""
    tensors = [captured(student, batch, tokens, 1), captured(TEACHER, batch, tokens, 2)]
    own, other = (
        Captures(kept, spec.heads, decoder=decoder_of(spec, torch.float32))
        for kept, spec in zip(tensors, (student, TEACHER), strict=True)
    )
    mask = torch.ones(batch, tokens, dtype=torch.long)
    labels = torch.zeros(batch, dtype=torch.long)
    distiller, context = Distiller(terms), context_of(mask, labels)
    seen = Seen(own, (other,), context)
    counts = denominators_of(terms, mask)
    outside = [*distiller.parameters(), *distiller.buffers(), mask, labels]
    for kept in tensors:
        outside += kept.values()
    for side in (own, other):
        assert side.decoder is not None
        assert side.decoder.bias_V is not None
        outside += [side.decoder.weight_VD, side.decoder.bias_V]
    with LiveBytes(outside) as live:
        values = distiller({"plain": seen, **{b.term.view: seen for b in terms}}, counts)
        distiller.total(values, context.moment).backward()
    return live.peak


@pytest.mark.parametrize("method", methods.names())
def test_what_a_term_allocates_is_what_its_formula_says(method: str) -> None:
    student, stages = student_of(method)
    for stage, terms in stages.items():
        for bound in terms:
            for size in SIZES:
                ratio = peak((bound,), student, *size) / bound_bytes(bound, *size)
                where = f"{stage} {bound.name} at {size}: {ratio:.2f} of the formula"
                assert AT_LEAST <= ratio <= AT_MOST, where


@pytest.mark.parametrize("method", ["ckd", "mgskd", "tinybert", "bert_emd", "universal_kd"])
def test_a_stage_allocates_no_more_than_its_terms_together(method: str) -> None:
    student, stages = student_of(method)
    for terms in stages.values():
        formula = stage_bytes(terms, *SIZES[1])
        assert peak(terms, student, *SIZES[1]) <= AT_MOST * formula


def test_attention_grows_with_the_square_of_the_tokens_and_angles_as_they_do() -> None:
    _, stages = student_of("ckd")
    at = {b.name: [bound_bytes(b, 8, n) for n in (256, 512)] for b in stages["pred"]}
    assert at["ckd/wr_pair"][1] > 3 * at["ckd/wr_pair"][0]
    assert at["ckd/wr_triple"][1] < 2.1 * at["ckd/wr_triple"][0]


def test_triples_of_a_large_batch_stay_within_a_piece() -> None:
    term = Term("t", extract.pooled, objectives.SampleAngles(), reduction.mean_cls)
    bound = bind(term, TEACHER, TEACHER)
    assert bound_bytes(bound, 1024, 8) < 120e6
    assert 4 * 1024**3 > 4e9


@pytest.mark.parametrize("tokens", [32, 64])
@pytest.mark.parametrize("heads", [1, 4])
def test_triples_in_pieces_allocate_what_the_formula_says(
    tokens: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = (transforms.SplitHeads(heads),)
    for piece in (1 << 21, 1 << 14):
        monkeypatch.setattr("toolchain.distill.objectives.angles._PIECE", piece)
        term = Term(
            "t", extract.hidden, objectives.GuidedAngles(), reduction.mean_cls, matching.Last(),
            chain, guide=extract.attn_probs,
        )  # fmt: skip
        bound = bind(term, TEACHER, TEACHER)
        ratio = peak((bound,), TEACHER, 4, tokens) / bound_bytes(bound, 4, tokens)
        assert AT_LEAST <= ratio <= AT_MOST, ratio


@pytest.mark.parametrize("tokens", [8, 21, 22, 64])
def test_triples_of_a_window_allocate_what_the_formula_says(tokens: int) -> None:
    term = Term("t", extract.hidden, objectives.WindowAngles(), reduction.mean_tok, matching.Last())
    bound = bind(term, TEACHER, TEACHER)
    ratio = peak((bound,), TEACHER, 4, tokens) / bound_bytes(bound, 4, tokens)
    assert AT_LEAST <= ratio <= AT_MOST, ratio


def test_logits_in_pieces_allocate_what_the_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory", "distiller"):
        monkeypatch.setattr(f"toolchain.distill.{module}.PIECE", 5000)
    for objective in (objectives.KL(2.0), objectives.GJS()):
        term = Term("t", extract.logits, objective, reduction.mean_logits)
        whole = bind(term, TEACHER, TEACHER)
        formula = loss_bytes(term, TEACHER, TEACHER, 100, 4)
        ratio = peak((whole,), TEACHER, 100, 4) / formula
        assert AT_LEAST <= ratio <= AT_MOST
        monkeypatch.setattr("toolchain.distill.memory.PIECE", 1 << 23)
        assert formula < 0.7 * loss_bytes(term, TEACHER, TEACHER, 100, 4)
        monkeypatch.setattr("toolchain.distill.memory.PIECE", 5000)


@pytest.mark.parametrize("method", ["minilm_v2", "tinybert"])
def test_maps_in_pieces_give_the_same_loss_and_gradient_in_less_memory(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, stages = student_of(method)
    terms = tuple(b for b in stages["inter"] if b.term.reduction.over in ("query", "pair"))
    mask = torch.ones(8, 32, dtype=torch.long)
    mask[::2, 20:] = 0
    found, formulas = [], []
    for piece in (1 << 23, 20_000):
        for module in ("memory", "distiller"):
            monkeypatch.setattr(f"toolchain.distill.{module}.PIECE", piece)
        own = make_side(student, 8, 32, 1, grad=True)
        labels = torch.zeros(8, dtype=torch.long)
        loss = loss_of(terms, own, make_side(TEACHER, 8, 32, 2), mask, labels).total
        loss.backward()
        grads = [x.grad for x in own.tensors.values() if x.grad is not None]
        found.append([loss.detach(), *grads])
        formulas.append(sum(bound_bytes(bound, *SIZES[1]) for bound in terms))
        for bound in terms:
            ratio = peak((bound,), student, *SIZES[1]) / bound_bytes(bound, *SIZES[1])
            assert AT_LEAST <= ratio <= AT_MOST, f"{bound.name}: {ratio:.2f}"
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-13)
    if method == "tinybert":
        # Its squares hold nothing, so that pieces would only cost time.
        assert formulas[1] == formulas[0]
    else:
        assert formulas[1] < 0.8 * formulas[0]


def test_a_language_model_has_a_row_of_logits_per_token() -> None:
    lm = ModelSpec(
        family="gpt2", layers=2, width=64, heads=2, ffn=128, vocab=1000, max_tokens=64,
        task="causal_lm", causal=True,
    )  # fmt: skip
    term = Term("t", extract.logits, objectives.KL(), reduction.mean_logits)
    assert loss_bytes(term, lm, lm, 2, 32) == 5 * 4 * 2 * 32 * 1000


@pytest.mark.parametrize("method", methods.names())
def test_every_method_says_what_its_loss_takes(method: str) -> None:
    sizes = loss_sizes(method)
    assert {name for _, name, _ in sizes} == {t.name for t in find_method(method)().terms()}
    assert all(size > 0 for *_, size in sizes)
    # Two terms on maps of many heads come near; nothing may need more than a small machine has.
    assert max(size for *_, size in sizes) < 4 << 30


def test_the_formula_needs_no_torch() -> None:
    code = (
        "import sys; from toolchain.distill.memory import stage_bytes; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
