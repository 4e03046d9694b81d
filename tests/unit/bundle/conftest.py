"""A tokenizer and a classifier small enough to make on the spot, but real in every part."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from toolchain.artifact import MANIFEST, drafting, file_sha256, folder_digest
from toolchain.bundle.assets.selftest import examine
from toolchain.bundle.bundle import build
from toolchain.target import load_target

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "film", "is", "not", "good", "bad", "great", "a", "it", "and", "of", "cafe", "uber"]
SIGNS = [*"!?.,'-12", "\u4e2d", "\u6587"]
LETTERS = [*ascii_lowercase, *(f"##{c}" for c in ascii_lowercase)]
VOCABULARY = list(dict.fromkeys(SPECIAL + WORDS + SIGNS + LETTERS))
TEXTS = ["the film is good", "a bad film", "it is not great !", "the film and the cafe ."]
PAIRS = [("the film is good", "it is great"), ("a bad film", "not good"), ("a", "the cafe")]


def save_tokenizer(folder: Path, *, lowercase: bool = True) -> Path:
    """Save a WordPiece tokenizer of BERT's kind as save_pretrained does, and its vocab.txt."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def save_model(
    path: Path,
    *,
    classes: int = 2,
    seed: int = 0,
    opset: int = 17,
    ir_version: int = 10,
    vocabulary: int = len(VOCABULARY),
    bias: float | None = None,
) -> Path:
    """Save a classifier: word + type embedding, mean over the mask, one matrix, one bias."""
    random = np.random.default_rng(seed)
    width = 16
    weights = {
        "words": random.normal(size=(vocabulary, width)),
        "types": random.normal(size=(2, width)) / 10,
        "matrix": random.normal(size=(width, classes)) * 2,
        "bias": random.normal(size=classes) / 10,
    }
    # The words decide, not the special tokens that every row holds.
    weights["words"][: len(SPECIAL)] /= 10
    if bias is not None:
        weights["bias"] = np.full(classes, bias)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["type"]),
        helper.make_node("Add", ["word", "type"], ["summed"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_BN1"]),
        helper.make_node("Mul", ["summed", "mask_BN1"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "first"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask_BN1", "first"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "first"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "N"]) for n in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", classes])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@dataclass(frozen=True)
class Workshop:
    """Parts to make bundles of; `make` builds and seals one as the pipeline does."""

    root: Path
    tokenizer: Path
    fp32: Path
    int8: Path

    def save_model(self, name: str, **changed: Any) -> Path:
        """Save another classifier."""
        return save_model(self.root / f"{name}.onnx", **changed)

    def save_tokenizer(self, name: str, **changed: Any) -> Path:
        """Save another tokenizer."""
        return save_tokenizer(self.root / name, **changed)

    def arguments(self, **changed: Any) -> dict[str, Any]:
        """Return what `build` takes, with some of it changed."""
        model = changed.get("model", self.fp32)
        return {
            "target": load_target("raspberry-pi-4"),
            "model": model,
            "model_digest": file_sha256(model),
            "tokenizer": self.tokenizer,
            "labels": ("negative", "positive"),
            "kind": "single",
            "max_tokens": 24,
            "golden_texts": TEXTS,
            "precision": "fp32",
            "lineage": {"teacher": "a teacher", "recipe": "0123abcd"},
            "licenses": {"teacher.txt": "Apache-2.0"},
            **changed,
        }

    def make(self, name: str, **changed: Any) -> Path:
        """Build and seal a bundle; returns its folder."""
        root = self.root / name
        with drafting(root, {"step": "bundle"}) as draft:
            build(draft.folder, **self.arguments(**changed))
        return root


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Parts of tiny bundles, fp32 and int8."""
    root = tmp_path_factory.mktemp("workshop")
    fp32 = save_model(root / "fp32.onnx")
    int8 = root / "int8.onnx"
    quantize_dynamic(fp32, int8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    return Workshop(root, save_tokenizer(root / "tokenizer"), fp32, int8)


@pytest.fixture(scope="session")
def fp32_bundle(workshop: Workshop) -> Path:
    """A sealed fp32 bundle for a Raspberry Pi; copy it before changing it."""
    return workshop.make("fp32")


@pytest.fixture(scope="session")
def int8_bundle(workshop: Workshop) -> Path:
    """A sealed int8 bundle for a Raspberry Pi; copy it before changing it."""
    return workshop.make("int8", model=workshop.int8, precision="int8")


@pytest.fixture(scope="session")
def pair_bundle(workshop: Workshop) -> Path:
    """A sealed fp32 bundle that takes pairs."""
    return workshop.make("pair", kind="pair", golden_texts=PAIRS)


@dataclass(frozen=True)
class Bundle:
    """A sealed bundle to take apart."""

    folder: Path

    def golden(self) -> list[dict[str, Any]]:
        """Read its golden rows."""
        lines = (self.folder / "golden.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def write_golden(self, rows: list[dict[str, Any]]) -> None:
        """Replace its golden rows."""
        lines = [json.dumps(row) + "\n" for row in rows]
        (self.folder / "golden.jsonl").write_text("".join(lines), encoding="utf-8")

    def about(self) -> dict[str, Any]:
        """Read its bundle.json."""
        content: dict[str, Any] = json.loads((self.folder / "bundle.json").read_text("utf-8"))
        return content

    def manifest(self) -> dict[str, Any]:
        """Read its manifest."""
        content: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        return content

    def write_manifest(self, files: dict[str, str]) -> None:
        """Replace the files its manifest lists; the digest agrees."""
        manifest = {**self.manifest(), "files": files, "digest": folder_digest(files)}
        (self.folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    def reseal(self) -> None:
        """Write a manifest in which every file is what it should be."""
        names = self.manifest()["files"]
        self.write_manifest({name: file_sha256(self.folder / name) for name in names})

    def run(
        self, script: str, *arguments: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of its scripts as its user would, away from this checkout's modules."""
        return subprocess.run(
            [sys.executable, "-I", "-W", "error", str(self.folder / script), *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.folder.parent,
            timeout=60,
        )

    def examine(self) -> dict[str, Any]:
        """Examine it here: quicker than `prove`, the same code."""
        findings = examine(self.folder)
        return {"problems": findings.problems, "notes": findings.notes, **findings.figures}

    def prove(self) -> dict[str, Any]:
        """Run its self-test as its user would; the exit code and the verdict agree."""
        ran = self.run("selftest.py", "--json")
        assert ran.stderr == b""
        report: dict[str, Any] = json.loads(ran.stdout)
        assert report.pop("passed") == (not report["problems"])
        assert ran.returncode == (4 if report["problems"] else 0)
        assert json.loads(json.dumps(self.examine())) == report
        return report


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Bundle]:
    """Copy a bundle, so that it can be changed."""

    def copy(folder: Path) -> Bundle:
        return Bundle(Path(shutil.copytree(folder, tmp_path / folder.name)))

    return copy


@pytest.fixture
def fp32(copy_of: Callable[[Path], Bundle], fp32_bundle: Path) -> Bundle:
    """An fp32 bundle of its own for one test."""
    return copy_of(fp32_bundle)


@pytest.fixture
def int8(copy_of: Callable[[Path], Bundle], int8_bundle: Path) -> Bundle:
    """An int8 bundle of its own for one test."""
    return copy_of(int8_bundle)


@pytest.fixture
def pair(copy_of: Callable[[Path], Bundle], pair_bundle: Path) -> Bundle:
    """A bundle for pairs of its own for one test."""
    return copy_of(pair_bundle)
