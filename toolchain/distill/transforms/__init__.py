"""What is done to knowledge before it is compared: one file per kind of transform."""

from toolchain.distill.transforms.anneal import Anneal
from toolchain.distill.transforms.decoding import Decode
from toolchain.distill.transforms.detach import Detach
from toolchain.distill.transforms.gram import Gram
from toolchain.distill.transforms.heads import PseudoHead
from toolchain.distill.transforms.pairdist import PairDist
from toolchain.distill.transforms.pooling import L2Norm, Pool
from toolchain.distill.transforms.projection import Project
from toolchain.distill.transforms.relation import Relation
from toolchain.distill.transforms.scores import Softmax, ZScore
from toolchain.distill.transforms.splitting import Spans, SplitHeads
from toolchain.distill.transforms.transform import Fixed, Side, Transform
from toolchain.distill.transforms.vocab_map import VocabMap

__all__ = [
    "Anneal",
    "Decode",
    "Detach",
    "Fixed",
    "Gram",
    "L2Norm",
    "PairDist",
    "Pool",
    "Project",
    "PseudoHead",
    "Relation",
    "Side",
    "Softmax",
    "Spans",
    "SplitHeads",
    "Transform",
    "VocabMap",
    "ZScore",
]
