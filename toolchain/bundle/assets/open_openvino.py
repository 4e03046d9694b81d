"""How scripts of bundles open an OpenVINO model: stands in the place of their `_open_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino

from toolchain.bundle.assets.classify import BundleError, _first_line

__all__: list[str] = []


class _Model:
    """A compiled graph that answers like an onnxruntime session."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """Return the outputs of these names."""
        found = self._request.infer(feed)
        return [found[name] for name in outputs]


def _open_model(path: Path, provider: str, threads: int) -> _Model:
    core, stated = openvino.Core(), ["toolchain", "precision"]
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        if provider != "CPUExecutionProvider":
            raise ValueError(f"no provider {provider}")
        model = core.read_model(path)
        if model.has_rt_info(stated) and model.get_rt_info(stated).value == "bf16":
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
        return _Model(core.compile_model(model, "CPU", settings))
    except Exception as error:  # openvino raises nothing narrower than RuntimeError.
        raise BundleError(f"{path.name}: cannot be opened: {_first_line(error)}") from error
