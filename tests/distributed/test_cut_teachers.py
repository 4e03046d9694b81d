"""A teacher cut over two ranks says what it says whole, and each rank owns its part of it."""

import json
from pathlib import Path

from tests.distributed.conftest import Ranks
from tests.distributed.cut_captures import FAMILIES
from tests.unit.models import zoo
from toolchain.models.checkpoint import inspect
from toolchain.scale.cuts import cut_params


def test_every_family_that_is_cut_gives_whole_captures(ranks: Ranks, tmp_path: Path) -> None:
    folders = {}
    for name, task in FAMILIES:
        folder = tmp_path / f"{name}-{task}".replace(" ", "-")
        folders[f"{name} {task}"] = zoo.save(zoo.make(name, task), folder)
    out = tmp_path / "counted"
    ranks.run(["-m", "tests.distributed.cut_captures", str(tmp_path), str(out)], 2)
    for rank in range(2):
        counted = json.loads(Path(f"{out}.{rank}").read_text())
        for name, folder in folders.items():
            spec = inspect(folder).spec
            cut = cut_params(spec)
            assert cut > spec.params() / 2, name
            assert counted[name]["owned"] == spec.params() - cut + cut / 2, name
