"""How two pieces of knowledge are compared: one file per kind of objective."""

from toolchain.distill.objectives.adaptive import AKL
from toolchain.distill.objectives.angles import (
    GuidedAngles,
    LayerAngles,
    SampleAngles,
    WindowAngles,
)
from toolchain.distill.objectives.cka import CKA
from toolchain.distill.objectives.contrastive import CosNCE
from toolchain.distill.objectives.correlation import PearsonInter, PearsonIntra
from toolchain.distill.objectives.cosine import Cos
from toolchain.distill.objectives.decoupled import NCKD, TCKD
from toolchain.distill.objectives.distance import MSE
from toolchain.distill.objectives.divergence import KL, SoftCrossEntropy
from toolchain.distill.objectives.flow import FlowMSE
from toolchain.distill.objectives.heads import HeadCrossEntropy
from toolchain.distill.objectives.hinge import HingeMSE
from toolchain.distill.objectives.huber import Huber
from toolchain.distill.objectives.interpolated import TAID
from toolchain.distill.objectives.labels import CrossEntropy
from toolchain.distill.objectives.mixtures import GJS, RKL, SKL, SRKL
from toolchain.distill.objectives.objective import Objective
from toolchain.distill.objectives.ordered import L1Sorted
from toolchain.distill.objectives.relational import RelationMSE, RKDDistance
from toolchain.distill.objectives.sampled_text import LongReturn, NextRKL
from toolchain.distill.objectives.sparse import TopKKL

__all__ = [
    "AKL",
    "CKA",
    "GJS",
    "KL",
    "MSE",
    "NCKD",
    "RKL",
    "SKL",
    "SRKL",
    "TAID",
    "TCKD",
    "Cos",
    "CosNCE",
    "CrossEntropy",
    "FlowMSE",
    "GuidedAngles",
    "HeadCrossEntropy",
    "HingeMSE",
    "Huber",
    "L1Sorted",
    "LayerAngles",
    "LongReturn",
    "NextRKL",
    "Objective",
    "PearsonInter",
    "PearsonIntra",
    "RKDDistance",
    "RelationMSE",
    "SampleAngles",
    "SoftCrossEntropy",
    "TopKKL",
    "WindowAngles",
]
