"""Family: where things live in one architecture, as names. Read without importing torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from toolchain.errors import UsageError
from toolchain.registry import Registry
from toolchain.spec import ModelSpec

__all__ = ["Family", "families", "family_of"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Dotted module paths and configuration keys of one architecture.

    Paths are relative to the backbone, `blocks` to the list of blocks, q/k/v to one block.
    `keys` maps ModelSpec fields to configuration keys; `head` and `pooler` are parameter prefixes
    of the classification model. `auto_class` is the transformers class of the task model.
    """

    name: str
    model_types: tuple[str, ...]
    backbone: str
    embeddings: str
    blocks: str
    query: str
    key: str
    value: str
    pooler: str
    head: str
    keys: Mapping[str, str]

    def spec(self, config: Mapping[str, object], *, num_labels: int) -> ModelSpec:
        """Return the shape a configuration describes. Raises UsageError for a missing key."""
        values: dict[str, int] = {}
        for field, key in self.keys.items():
            value = config.get(key)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"config.json: {key!r} should be an integer, found {value!r}")
            values[field] = value
        base = ModelSpec(
            family=self.name,
            layers=values["layers"],
            width=values["width"],
            heads=values["heads"],
            ffn=values["ffn"],
            vocab=values["vocab"],
            max_tokens=values["max_tokens"],
            num_labels=num_labels,
        )
        return replace(base, token_types=values.get("token_types", 0))

    def config_changes(self, spec: ModelSpec) -> dict[str, int]:
        """Return the configuration keys that give a model this shape."""
        return {key: int(getattr(spec, field)) for field, key in self.keys.items()}

    def block_prefix(self, layer: int) -> str:
        """Return the parameter prefix of block `layer` (1 is the lowest)."""
        return f"{self.backbone}.{self.blocks}.{layer - 1}."


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
        f"model_type {model_type!r} is not supported",
        f"supported: {', '.join(known)}; a family is one file in toolchain/models/families",
    )
