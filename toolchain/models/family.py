"""Family: where things live in one architecture, as names. Read without importing torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from toolchain.errors import UsageError
from toolchain.registry import Registry
from toolchain.spec import SEQUENCE, ModelSpec, Parts, Task

__all__ = ["Family", "Head", "Projection", "families", "family_of"]

Config = Mapping[str, object]
Projection = Literal["q", "k", "v"]

# Fields of a ModelSpec that a configuration may leave out: 0 stands for their usual value.
_OPTIONAL = frozenset({"kv_heads", "head_width", "embedding_width", "token_types"})


@dataclass(frozen=True)
class Head:
    """The head of one task: prefixes of the parameters only it has, and its last linear layer.

    What the last layer reads is the knowledge `pooled`; without a single last layer (""), there is
    none.
    """

    parameters: tuple[str, ...]
    last: str


def _as_they_are(parts: Parts, config: Config) -> Parts:  # noqa: ARG001
    return parts


@dataclass(frozen=True, kw_only=True)
class Family:
    """Dotted module paths and configuration keys of one architecture.

    `backbone` is the attribute of task models that holds the bare model. Paths are relative to the
    bare model: `tokens` is the table of token embeddings, `blocks` the list of blocks, `rotary` the
    module that gives cosines and sines, `score_bias` the table of a bias that distance adds to
    attention scores. `query`, `key`, `value` and the norms of single heads are relative to a
    block; `fused` says that one module, stored (in, out), gives queries, keys and values side by
    side. `out`, the projection after attention, and `ffn`, both layers of the feed-forward, are
    given where a norm follows each of the two sums, so that parts of them can be cut out.

    `keys` maps fields of ModelSpec to configuration keys, `ffn_ratio` is the ratio ffn / width
    where the configuration gives none, `inner` the key of what all heads are wide together where
    that is not the width, `repeated` names keys that repeat a field. `parts` says
    what the model is made of, `switches` which of it the configuration decides, `dropouts` which
    of it a rate of dropout does, `adjust` what it takes a rule to decide. `expects` lists the
    values a setting may have: with others the model computes something this description does not
    say.

    `pools` is the token a sequence classifier reads. `layout` names what follows attention in a
    block, where its last can be computed for that token alone ("" where it cannot). `unsupported`
    maps kinds of knowledge that cannot be read here to the reason.
    """

    name: str
    model_types: tuple[str, ...]
    backbone: str
    tokens: str
    blocks: str
    query: str
    key: str
    value: str
    fused: bool = False
    query_norm: str | None = None
    key_norm: str | None = None
    rotary: str | None = None
    score_bias: str | None = None
    out: str | None = None
    ffn: tuple[str, str] | None = None
    causal: bool = False
    pools: Literal["first", "last"] = "first"
    layout: Literal["", "bert", "distilbert"] = ""
    heads: Mapping[Task, Head]
    keys: Mapping[str, str]
    ffn_ratio: int | None = None
    inner: str | None = None
    repeated: Mapping[str, str] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)
    switches: Mapping[str, str] = field(default_factory=dict)
    dropouts: Mapping[str, str] = field(default_factory=dict)
    adjust: Callable[[Parts, Config], Parts] = _as_they_are
    expects: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task a model of this family can have a head for, or "encode" without one."""
        with_heads: list[Task] = []
        for task in self.heads:
            with_heads += sorted(SEQUENCE) if task == "classify" else [task]
        return (*with_heads, *(() if self.causal else ("embed",)), "encode")

    def reads_first_token(self, task: Task) -> bool:
        """Return whether the last block can be computed for its first token alone."""
        return bool(self.layout) and task in SEQUENCE

    def head(self, task: Task) -> Head:
        """Return the head of a task. Raises UsageError when this family has none for it."""
        if task == "embed" and not self.causal:
            # Pooling has no parameters.
            return Head((), "")
        name: Task = "classify" if task in SEQUENCE else task
        if name not in self.heads:
            raise UsageError(
                f"{self.name} models have no head for {task}",
                f"their tasks: {', '.join(self.tasks)}",
            )
        return self.heads[name]

    def spec(self, config: Config, *, task: Task = "encode", num_labels: int = 0) -> ModelSpec:
        """Return the shape a configuration describes.

        Raises UsageError for a missing key, and for a setting that changes what is computed.
        """
        for key, allowed in self.expects.items():
            if config.get(key) is not None and config[key] not in allowed:
                raise UsageError(
                    f"config.json: {key!r} is {config[key]!r}",
                    f"{self.name} models are supported with {' or '.join(map(repr, allowed))}",
                )
        parts = self._parts(config)
        sizes = {name: self._size(config, name, key) for name, key in self.keys.items()}
        return ModelSpec(
            family=self.name,
            layers=sizes["layers"],
            width=sizes["width"],
            heads=sizes["heads"],
            ffn=sizes["ffn"],
            vocab=sizes["vocab"],
            max_tokens=sizes["max_tokens"] - parts.position_offset,
            token_types=sizes.get("token_types", 0),
            kv_heads=sizes.get("kv_heads", 0),
            head_width=sizes.get("head_width", 0) or self._head_width(config, sizes["heads"]),
            embedding_width=sizes.get("embedding_width", 0),
            task=task,
            num_labels=num_labels,
            causal=self.causal,
            rotary=self.rotary is not None,
            parts=parts,
        )

    def _size(self, config: Config, name: str, key: str) -> int:
        value = config.get(key)
        if value is None and name in _OPTIONAL:
            return 0
        if value is None and name == "ffn" and self.ffn_ratio:
            return self.ffn_ratio * self._size(config, "width", self.keys["width"])
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"config.json: {key!r} should be an integer, found {value!r}")
        return value

    def _head_width(self, config: Config, heads: int) -> int:
        return self._size(config, "inner", self.inner) // heads if self.inner else 0

    def _parts(self, config: Config) -> Parts:
        changed: dict[str, bool] = {}
        for name, key in self.switches.items():
            value = config.get(key)
            if value is None:
                continue
            if not isinstance(value, bool):
                raise UsageError(f"config.json: {key!r} should be true or false, found {value!r}")
            changed[name] = value
        for name, key in self.dropouts.items():
            rate = config.get(key)
            if isinstance(rate, int | float):
                changed[name] = rate > 0
        return self.adjust(replace(self.parts, **changed), config)

    def config_changes(self, spec: ModelSpec) -> dict[str, int]:
        """Return the configuration keys that give a model this shape."""
        fields = {key: name for name, key in self.keys.items()} | dict(self.repeated)
        changes = {key: int(getattr(spec, name)) for key, name in fields.items()}
        changes[self.keys["max_tokens"]] += spec.parts.position_offset
        return changes

    def block_prefix(self, layer: int) -> str:
        """Return the parameter prefix of block `layer` (1 is the lowest)."""
        return f"{self.backbone}.{self.blocks}.{layer - 1}."

    def projection(self, kind: Projection) -> str:
        """Return the path of the module that projects queries, keys or values, inside a block."""
        return {"q": self.query, "k": self.key, "v": self.value}[kind]

    def part(self, kind: Projection, spec: ModelSpec, features: int) -> slice:
        """Return which of so many features of that module's output are queries, keys or values.

        A module that is cut gives those of some heads alone.
        """
        if not self.fused:
            return slice(None)
        q, k = spec.query_width, spec.key_width
        start, end = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + 2 * k)}[kind]
        return slice(start * features // (q + 2 * k), end * features // (q + 2 * k))


families: Registry[Family] = Registry("family", "toolchain.models.families", "FAMILY")


def family_of(model_type: str) -> Family:
    """Return the family of a configuration's `model_type`. Raises UsageError when none fits."""
    known: list[str] = []
    for name in families.names():
        family = families.get(name)
        if model_type in family.model_types:
            return family
        known += family.model_types
    raise UsageError(
        f"model_type {model_type!r} is not supported: no family says where its embeddings, "
        "blocks, projections and heads are",
        f"supported: {', '.join(known)}; a family is one file in toolchain/models/families",
    )
