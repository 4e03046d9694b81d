"""Of an int8 file and one whose student was trained for int8, which is published and may ship."""

from dataclasses import replace
from pathlib import Path

import pytest

from toolchain.measurement import Metric, Verdict
from toolchain.steps.decide import better_of
from toolchain.steps.variants import Variant
from toolchain.steps.verify import Proof

PLAIN = Variant(
    name="student-int8", role="student", format="onnx", precision="int8", path=Path("a.onnx"),
    digest="a", parameters=1, parent="student-onnx", published="onnx/model_quantized.onnx",
)  # fmt: skip
AWARE = replace(PLAIN, name="student-aware-int8", parent="student-aware-onnx", digest="b")


def proof(*failed: str, plain: float = 0.8, aware: float = 0.9, metric: str = "accuracy") -> Proof:
    verdicts = tuple(
        Verdict(gate="cosine", model=name, limit="", observed="", passed=name not in failed, why="")
        for name in (PLAIN.name, AWARE.name, AWARE.parent)
    )
    found = {PLAIN.name: plain, AWARE.name: aware}
    metrics = {
        name: Metric(name=metric, value=value, split="dev", rows=10)
        for name, value in found.items()
    }
    return Proof(metrics=metrics, parities={}, verdicts=verdicts)


@pytest.mark.parametrize(("found", "published", "candidates"), [
    # One of them passes: it is published, the other is tried and told why not.
    (proof(PLAIN.name, aware=0.1), "aware", (True, True)),
    (proof(AWARE.name), "plain", (True, True)),
    (proof(PLAIN.name, AWARE.name), "plain", (True, True)),
    # Both pass: the better one.
    (proof(), "aware", (False, True)),
    (proof(aware=0.7), "plain", (True, False)),
    (proof(aware=0.8), "aware", (False, True)),
    (proof(aware=0.7, metric="loss"), "aware", (False, True)),
    # Its own fp32 file is not what was trained.
    (proof(AWARE.parent), "plain", (True, False)),
    (proof(AWARE.parent, PLAIN.name), "plain", (True, False)),
])  # fmt: skip
def test_the_better_file_that_passes_is_published_and_ships(
    found: Proof, published: str, candidates: tuple[bool, bool]
) -> None:
    plain, aware = better_of(PLAIN, AWARE, found)
    assert [bool(plain.published), bool(aware.published)] == [
        published == "plain",
        published == "aware",
    ]
    assert (plain.candidate, aware.candidate) == candidates
