"""The caption head: the network, its vocabulary, decoding and scoring."""

from mmfm.captioner.decoding import decode, score
from mmfm.captioner.network import Captioner, random_ports
from mmfm.captioner.stepper import Stepper
from mmfm.captioner.vocabulary import Vocabulary, encode_batch

__all__ = [
    "Captioner",
    "Stepper",
    "Vocabulary",
    "decode",
    "encode_batch",
    "random_ports",
    "score",
]
