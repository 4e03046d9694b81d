"""What changes a student's modules while it trains: one file per kind of surgery."""

from toolchain.distill.surgery.fake_int8 import FakeInt8
from toolchain.distill.surgery.l0_masks import L0Masks
from toolchain.distill.surgery.multi_head import MultiHead
from toolchain.distill.surgery.replace_modules import ReplaceModules
from toolchain.distill.surgery.rest_below import RestBelow
from toolchain.distill.surgery.surgery import Operation, Surgery

__all__ = [
    "FakeInt8",
    "L0Masks",
    "MultiHead",
    "Operation",
    "ReplaceModules",
    "RestBelow",
    "Surgery",
]
