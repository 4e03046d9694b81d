import inspect
from pathlib import Path

import pytest

from toolchain.errors import UsageError
from toolchain.runtimes.runtime import runtimes


def test_the_runtimes_are_the_files_of_the_adapters_folder():
    assert {"onnxruntime", "pytorch"} <= set(runtimes.names())


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_says_in_one_line_what_it_is_for(name):
    assert runtimes.summary(name).endswith(".")


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_opens_by_path_threads_and_provider(name):
    parameters = inspect.signature(runtimes.get(name)).parameters
    assert list(parameters) == ["path", "threads", "provider"]


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_refuses_a_missing_path_by_name(name):
    with pytest.raises(UsageError, match="nowhere: no such"):
        runtimes.get(name)(Path("nowhere"), threads=1, provider="CPUExecutionProvider")


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_refuses_an_unknown_provider(name, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match=r"'AbacusProvider'.*CPUExecutionProvider"):
        runtimes.get(name)(tmp_path / "model.onnx", threads=1, provider="AbacusProvider")


def test_an_unknown_runtime_names_its_nearest_neighbour():
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        runtimes.get("onnx-runtime")
