"""Which variant ships, and what is said of the others."""

import pytest

from toolchain.measurement import Verdict
from toolchain.target import Accepts, Budget, RuntimeSpec, Target
from toolchain.verify.choice import Candidate, choose

FP32 = Candidate(model="fp32", precision="fp32", opset=20, file_bytes=400)
INT8 = Candidate(model="int8", precision="int8", opset=20, file_bytes=100)


def target(precisions: list[str] | None = None, *, file_bytes: int | None = None) -> Target:
    return Target(
        name="device",
        summary="a device",
        fidelity="none",
        runtime=RuntimeSpec(name="onnxruntime"),
        accepts=Accepts(formats=["onnx"], precisions=precisions or ["int8", "fp32"]),
        budget=Budget(memory_bytes=1000, file_bytes=file_bytes),
    )


def verdict(
    gate: str, model: str, passed: bool | None = True, *, blocking: bool = False
) -> Verdict:
    return Verdict(
        gate=gate,
        model=model,
        limit="the limit",
        observed="the figure",
        passed=passed,
        why="does this",
        blocking=blocking,
    )


PROVED = verdict("max_abs", "fp32", blocking=True)
SOUND = [PROVED, verdict("cosine", "int8"), verdict("agreement", "int8")]


def test_the_best_precision_ships_when_everything_passes() -> None:
    shipping = choose([FP32, INT8], SOUND, target())
    assert shipping.model == "int8"
    assert shipping.why == "int8 passes"
    assert (dict(shipping.rejected), shipping.unmet, shipping.undecided) == ({}, (), ())


def test_the_fastest_ships_where_it_was_measured_and_nowhere_else() -> None:
    here = target().model_copy(update={"fidelity": "measured"})
    times = {"int8": 2.0, "fp32": 1.0}
    assert choose([INT8, FP32], SOUND, here, times).model == "fp32"
    assert choose([INT8, FP32], SOUND, target(), times).model == "int8"
    assert choose([FP32, INT8], SOUND, here, {"int8": 2.0}).model == "int8"


def test_the_targets_own_order_of_precisions_rules() -> None:
    assert choose([INT8, FP32], SOUND, target(["fp32", "int8"])).model == "fp32"


@pytest.mark.parametrize("gate", ["cosine", "agreement", "max_drop", "smaller", "faster"])
def test_one_failed_gate_falls_back_to_fp32_and_says_why(gate: str) -> None:
    verdicts = [v for v in SOUND if v.gate != gate] + [verdict(gate, "int8", False)]
    shipping = choose([INT8, FP32], verdicts, target())
    assert shipping.model == "fp32"
    assert shipping.rejected == {"int8": "int8 does this: the figure, expected the limit"}


def test_a_variant_that_was_never_compared_does_not_ship() -> None:
    shipping = choose([INT8, FP32], [PROVED], target())
    assert shipping.model == "fp32"
    assert shipping.rejected["int8"] == "int8 was not compared with its fp32 parent"


@pytest.mark.parametrize(
    "verdicts",
    [
        [*SOUND[1:], verdict("max_abs", "fp32", False, blocking=True)],
        [*SOUND[1:], verdict("max_abs", "fp32", None, blocking=True)],
        SOUND[1:],
    ],
)
def test_nothing_ships_unless_fp32_is_proved(verdicts: list[Verdict]) -> None:
    shipping = choose([INT8, FP32], verdicts, target())
    assert shipping.model is None
    assert not shipping.proved
    assert set(shipping.rejected) == {"int8", "fp32"}
    assert shipping.why.startswith("nothing ships: ")


def test_what_the_target_cannot_take_is_rejected() -> None:
    shipping = choose([INT8, FP32], SOUND, target(["fp32"]))
    assert shipping.model == "fp32"
    small = choose([INT8, FP32], SOUND, target(file_bytes=50))
    assert small.model is None
    assert small.proved
    assert "the file has 400 bytes, device takes 50" in small.rejected["fp32"]


def test_open_gates_do_not_reject_but_are_told() -> None:
    verdicts = [*SOUND, verdict("faster", "int8", None), verdict("latency_ms", "int8", None)]
    shipping = choose([INT8, FP32], verdicts, target())
    assert shipping.model == "int8"
    assert [v.gate for v in shipping.undecided] == ["faster", "latency_ms"]


def test_a_missed_promise_prefers_a_variant_that_keeps_it() -> None:
    missed = verdict("min_kept", "int8", False, blocking=True)
    kept = verdict("min_kept", "fp32", blocking=True)
    shipping = choose([INT8, FP32], [*SOUND, missed, kept], target())
    assert shipping.model == "fp32"
    assert shipping.unmet == ()
    assert set(shipping.rejected) == {"int8"}


def test_a_promise_nobody_keeps_ships_the_best_sound_variant_and_is_told() -> None:
    missed = [verdict("latency_ms", name, False, blocking=True) for name in ("int8", "fp32")]
    shipping = choose([INT8, FP32], [*SOUND, *missed], target())
    assert shipping.model == "int8"
    assert shipping.unmet == (missed[0],)
    assert set(shipping.rejected) == {"fp32"}


def test_a_sound_variant_that_misses_a_promise_is_preferred_to_an_unsound_one() -> None:
    verdicts = [
        *SOUND,
        verdict("max_drop", "int8", False),
        verdict("latency_ms", "fp32", False, blocking=True),
    ]
    shipping = choose([INT8, FP32], verdicts, target())
    assert shipping.model == "fp32"
    assert [v.model for v in shipping.unmet] == ["fp32"]
    assert set(shipping.rejected) == {"int8"}


def test_another_format_is_judged_for_itself() -> None:
    taken = target().model_copy(
        update={"accepts": Accepts(formats=["onnx", "openvino"], precisions=["int8", "fp32"])}
    )
    other = Candidate(model="ov-fp32", precision="fp32", opset=0, file_bytes=400, format="openvino")
    # As good in the target's eyes, so the target's first format ships.
    equal = [*SOUND, verdict("max_abs", "ov-fp32")]
    assert choose([other, FP32], equal, taken).model == "fp32"
    here = taken.model_copy(update={"fidelity": "measured"})
    times = {"ov-fp32": 1.0, "fp32": 2.0}
    assert choose([FP32, other], equal, here, times).model == "ov-fp32"
    # Its miss says nothing of ONNX.
    missed = [*SOUND, verdict("max_abs", "ov-fp32", False)]
    shipping = choose([FP32, other], missed, here, times)
    assert (shipping.model, list(shipping.rejected)) == ("fp32", ["ov-fp32"])
    assert choose([FP32, other], SOUND, target()).model == "fp32"
