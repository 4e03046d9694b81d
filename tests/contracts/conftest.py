from tests.unit.distill.conftest import labels, mask

__all__ = ["labels", "mask"]
