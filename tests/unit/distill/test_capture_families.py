"""What is kept of every family's forward pass is what the model itself computes."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.unit.models import zoo
from toolchain.distill import extract
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.errors import UsageError
from toolchain.models.checkpoint import inspect
from toolchain.models.family import family_of
from toolchain.models.loading import load_model
from toolchain.models.outputs import logits_of
from toolchain.spec import ModelSpec, Task

ALL = frozenset(
    {Request("emb")}
    | {Request(kind, layer) for kind in ("hidden", "q", "k", "v") for layer in range(1, 5)}
)  # fmt: skip
FINAL_NORM = {"gpt2": "transformer.ln_f"}


def spec_of(model: PreTrainedModel, task: Task = "classify") -> ModelSpec:
    labels = {"regress": 1}.get(task, 3)
    family = family_of(model.config.model_type)
    return family.spec(model.config.to_dict(), task=task, num_labels=labels)


def seen(
    model: PreTrainedModel,
    requests: Iterable[Request],
    inputs: dict[str, Tensor],
    task: Task = "classify",
) -> Captures:
    recorder = Recorder(model, family_of(model.config.model_type), spec_of(model, task), requests)
    with torch.no_grad(), recorder:
        output = model(**inputs)
        return recorder.take(logits_of(output) if task == "qa" else output[0])


def eager(model: PreTrainedModel) -> PreTrainedModel:
    model.config._attn_implementation = "eager"
    twin = type(model)(model.config).eval()
    twin.load_state_dict(model.state_dict())
    assert twin.config._attn_implementation == "eager"
    return twin


def masked(scores: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
    keys = mask.bool()[:, None, None, :]
    if causal:
        size = mask.shape[1]
        keys = keys & torch.ones(size, size, dtype=torch.bool).tril()
    return scores.masked_fill(~keys, -1e30)


@pytest.mark.parametrize("name", zoo.SCORED)
def test_scores_become_the_attention_of_the_eager_model(name: str) -> None:
    model = zoo.make(name)
    inputs = zoo.batch(name)
    captures = seen(model, ALL, inputs)
    with torch.no_grad():
        told = eager(model)(**inputs, output_attentions=True)
    assert len(told.attentions) == 4
    for layer in range(1, 5):
        scores = captures.get(extract.attn_scores, layer)
        assert scores.shape == (3, 4, 9, 9)
        found = masked(
            scores, inputs["attention_mask"], causal=spec_of(model).causal
        ).softmax(-1)  # fmt: skip
        torch.testing.assert_close(found, told.attentions[layer - 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", zoo.SETTINGS)
@pytest.mark.parametrize("kinds", [("q", "k"), ("v",), ("hidden", "q", "k")])
def test_a_pass_ends_once_everything_is_kept(name: str, kinds: tuple[str, ...]) -> None:
    model, inputs = zoo.make(name), zoo.batch(name)
    family, spec = family_of(model.config.model_type), spec_of(model)
    asked = {Request(kind, layer) for kind in kinds for layer in (1, 3)}  # type: ignore[arg-type]
    run = list[str]()
    blocks = model.get_submodule(f"{family.backbone}.{family.blocks}")
    for number, block in enumerate(blocks, start=1):  # type: ignore[arg-type]
        block.register_forward_hook(lambda *_, number=number: run.append(str(number)))
    recorder = Recorder(model, family, spec, asked, stops=True)
    with torch.no_grad(), recorder:
        assert recorder.run(model, inputs) is None
        early = recorder.take(None)
    # The third block itself ends where its last projection does.
    assert run == (["1", "2", "3"] if "hidden" in kinds else ["1", "2"])
    whole = seen(model, asked, inputs)
    assert early.tensors.keys() == asked
    for request in asked:
        torch.testing.assert_close(early.kept(request), whole.kept(request))
    if "q" in kinds and name in zoo.SCORED:
        told = whole.get(extract.attn_scores, 3)
        torch.testing.assert_close(early.get(extract.attn_scores, 3), told)


def test_a_pass_whose_answer_is_asked_for_goes_to_its_end() -> None:
    model, inputs = zoo.make("bert"), zoo.batch("bert")
    asked = {Request("q", 1), Request("logits")}
    recorder = Recorder(model, family_of("bert"), spec_of(model), asked, stops=True)
    with torch.no_grad(), recorder:
        answer = recorder.run(model, inputs)
        assert answer is not None
        assert recorder.take(answer).tensors.keys() == asked


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_hidden_states_are_those_the_model_tells(name: str) -> None:
    model = zoo.make(name)
    inputs = zoo.batch(name)
    captures = seen(model, ALL, inputs)
    with torch.no_grad():
        told = model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(captures.get(extract.emb, 0), told[0])
    torch.testing.assert_close(captures.get(extract.hidden, 0), told[0])
    for layer in range(1, 4):
        torch.testing.assert_close(captures.get(extract.hidden, layer), told[layer])
    last = captures.get(extract.hidden, 4)
    if name in zoo.DECODERS:
        # The model tells the last state behind the final norm; it is kept before it.
        assert not torch.allclose(last, told[4], atol=1e-2)
        with torch.no_grad():
            last = model.get_submodule(FINAL_NORM.get(name, "model.norm"))(last)
    torch.testing.assert_close(last, told[4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_projections_have_the_width_of_the_spec_and_give_the_context(name: str) -> None:
    model = zoo.make(name)
    family = family_of(model.config.model_type)
    spec = spec_of(model)
    inputs = zoo.batch(name)
    captures = seen(model, ALL, inputs)
    kinds = ((extract.q, spec.query_width), (extract.k, spec.key_width))
    for kind, width in (*kinds, (extract.v, spec.key_width)):
        assert captures.get(kind, 2).shape == (3, 9, width)
    if name in zoo.ENCODERS:
        # Post-norm blocks project what they read: the state below.
        block = model.get_submodule(family.block_prefix(2).removesuffix("."))
        below = captures.get(extract.hidden, 1)
        # Thin blocks read queries from a bottleneck, values from the state.
        asked = ((extract.q, family.query), (extract.v, family.value))
        for kind, path in asked[1:] if spec.parts.bottleneck else asked:
            with torch.no_grad():
                torch.testing.assert_close(captures.get(kind, 2), block.get_submodule(path)(below))


@pytest.mark.parametrize("name", zoo.DECODERS)
def test_projections_of_decoders_give_what_attention_returns(name: str) -> None:
    model = zoo.make(name)
    spec = spec_of(model)
    inputs = zoo.batch(name)
    family = family_of(model.config.model_type)
    block = model.get_submodule(family.block_prefix(3).removesuffix("."))
    out = block.get_submodule("attn.c_proj" if name == "gpt2" else "self_attn.o_proj")
    read: list[Tensor] = []
    handle = out.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    captures = seen(model, ALL, inputs)
    handle.remove()
    scores = captures.get(extract.attn_scores, 3)
    probabilities = masked(scores, inputs["attention_mask"], causal=True).softmax(-1)
    v_BHNK = captures.get(extract.v, 3).view(3, 9, spec.kv_heads, -1).transpose(1, 2)
    v_BHNK = v_BHNK.repeat_interleave(spec.heads // spec.kv_heads, 1)
    context = (probabilities @ v_BHNK).transpose(1, 2).flatten(2)
    torch.testing.assert_close(context, read[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "task"), zoo.EVERY)
def test_the_last_linear_layer_makes_logits_of_what_is_pooled(name: str, task: Task) -> None:
    model = zoo.make(name, task)
    inputs = zoo.batch(name)
    if task == "encode":
        with pytest.raises(UsageError, match="no head for encode"):
            seen(model, {Request("pooled")}, inputs, task)
        return
    if (name, task) == ("mobilebert", "mask_lm"):
        with pytest.raises(UsageError, match="no one linear layer"):
            seen(model, {Request("pooled")}, inputs, task)
        return
    captures = seen(model, {Request("pooled")}, inputs, task)
    last = model.get_submodule(family_of(model.config.model_type).head(task).last)
    pooled = captures.tensor(Request("pooled"))
    assert pooled.ndim == (2 if task in ("classify", "multi_label", "regress") else 3)
    with torch.no_grad():
        torch.testing.assert_close(last(pooled), captures.get(extract.logits, 0))


def test_the_token_a_decoder_pools_is_found_behind_padding_on_the_left() -> None:
    model = zoo.make("llama")
    inputs = {key: value.flip(1) for key, value in zoo.batch("llama").items()}
    captures = seen(model, {Request("pooled")}, inputs)
    score = model.get_submodule("score")
    with torch.no_grad():
        logits = score(captures.tensor(Request("pooled")))
    torch.testing.assert_close(logits, captures.get(extract.logits, 0))


@pytest.mark.parametrize("name", ["deberta-v3", "deberta-v2"])
def test_scores_that_projections_do_not_give_are_refused_with_the_reason(name: str) -> None:
    captures = seen(zoo.make(name), ALL, zoo.batch(name))
    assert captures.get(extract.q, 1).shape == (3, 9, 32)
    with pytest.raises(UsageError, match="add terms of content and position"):
        captures.get(extract.attn_scores, 1)


@pytest.mark.parametrize("name", zoo.SETTINGS)
def test_a_patched_state_is_what_the_rest_of_the_model_reads_and_what_is_kept(name: str) -> None:
    model = zoo.make(name)
    inputs = zoo.batch(name)
    words = inputs["attention_mask"].bool()
    ids = {**inputs, "input_ids": inputs["input_ids"].masked_fill(words, 7)}
    own = seen(model, ALL, inputs)
    recorder = Recorder(model, family_of(model.config.model_type), spec_of(model), ALL)
    for request in (Request("emb"), Request("hidden", 2)):
        with torch.no_grad(), recorder:
            state = own.tensor(request)
            # Another batch of the same masks goes on with the states of `inputs`.
            with recorder.patched({request: lambda _, kept=state: kept}):
                patched = recorder.take(model(**ids).logits)
            plain = recorder.take(model(**ids).logits)
        torch.testing.assert_close(patched.tensor(request), state)
        torch.testing.assert_close(
            patched.get(extract.hidden, 4), own.get(extract.hidden, 4), atol=1e-5, rtol=1e-4
        )
        assert not torch.allclose(
            plain.get(extract.hidden, 4), own.get(extract.hidden, 4), atol=1e-2
        )


def test_gradient_reaches_the_projections_and_norms_through_scores() -> None:
    model = zoo.make("qwen3")
    family = family_of("qwen3")
    recorder = Recorder(model, family, spec_of(model), {Request("q", 2), Request("k", 2)})
    with recorder:
        captures = recorder.take(model(**zoo.batch("qwen3")).logits)
    captures.get(extract.attn_scores, 2).square().sum().backward()
    block = model.get_submodule(family.block_prefix(2).removesuffix("."))
    for path in (family.query, family.key, family.query_norm, family.key_norm):
        assert path is not None
        assert block.get_submodule(path).weight.grad.abs().sum() > 0
    assert model.get_submodule("model.layers.2.self_attn.q_proj").weight.grad is None


def test_nothing_of_an_earlier_pass_is_left() -> None:
    model = zoo.make("deberta-v3")
    recorder = Recorder(model, family_of("deberta-v2"), spec_of(model), {Request("q", 1)})
    long, short = zoo.batch("deberta-v3"), zoo.batch("deberta-v3", tokens=9)
    short = {key: value[:1, :3] for key, value in short.items()}
    with torch.no_grad(), recorder:
        model(**long)
        assert recorder.take(model(**short).logits).tensor(Request("q", 1)).shape == (1, 3, 32)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_models_attention_stays_fused() -> None:
    for name in ("bert", "gpt2", "llama", "qwen3"):
        assert zoo.make(name).config._attn_implementation == "sdpa"


@pytest.mark.shared
def test_a_real_decoder_attends_as_recomputed(shared: Path) -> None:
    folder = shared / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("no stories260k beside the checkout")
    found = inspect(str(folder))
    assert (found.task, found.lm_head, found.has_head) == ("causal_lm", True, False)
    assert (found.spec.heads, found.spec.kv_heads, found.spec.head_width) == (8, 4, 8)
    model = load_model(folder, "causal_lm")
    assert found.spec.params() == zoo.parameters(model) == 260_032
    text = "Once upon a time, there was a little girl named Lily."
    inputs = dict(AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    requests = {Request(kind, layer) for kind in ("q", "k", "hidden") for layer in range(1, 6)}  # type: ignore[arg-type]
    recorder = Recorder(model, found.family, found.spec, requests)
    with torch.no_grad(), recorder:
        captures = recorder.take(model(**inputs).logits)
        other = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        )
        told = other(**inputs, output_attentions=True, output_hidden_states=True)
    for layer in range(1, 6):
        scores = captures.get(extract.attn_scores, layer)
        probabilities = masked(scores, inputs["attention_mask"], causal=True).softmax(-1)
        torch.testing.assert_close(probabilities, told.attentions[layer - 1], atol=1e-5, rtol=1e-4)
    for layer in range(1, 5):
        torch.testing.assert_close(
            captures.get(extract.hidden, layer), told.hidden_states[layer], atol=1e-4, rtol=1e-4
        )
    # A model that tells stories expects the next token better than chance: ln 512 is 6.2.
    ids = inputs["input_ids"]
    logits = captures.get(extract.logits, 0)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert loss < 2.0
