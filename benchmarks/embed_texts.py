"""Captions to vectors: `model.embed_texts` against open_clip and sentence-transformers.

All sides have the weights of one ViT-B-32, from a seed. open_clip reads all 77 places of a caption;
sentence-transformers pads to the longest of a batch; ours has no padding and computes what several
captions begin with once. "exact" is float32, "int8" quantises, "auto" is the precision chosen on
this machine, which the case names; gates are 1e-5 of any number and a cosine of 0.999. The model
that ships is compared too.
"""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import Options, _clip, options, versions
from mmfm.encoders.precision import chosen

COUNTS = {64: 256, 1: 16}  # batch size -> captions
DIFFERENCE = 1e-5  # of any number of a vector
COSINE = 0.999  # of the two vectors of any caption
KINDS = {"exact": "fp32", "int8": "int8", "auto": "auto"}  # our precisions

# what people write of photographs: (article) (adjective) noun, verb, the same, place
NOUNS = [
    "man", "woman", "boy", "girl", "child", "dog", "cat", "horse", "bird", "elephant", "zebra",
    "giraffe", "bear", "cow", "sheep", "train", "bus", "truck", "car", "bicycle", "motorcycle",
    "boat", "airplane", "bench", "chair", "table", "couch", "bed", "clock", "vase", "laptop",
    "phone", "book", "umbrella", "kite", "surfboard", "skateboard", "pizza", "sandwich", "cake",
    "banana", "apple", "plate", "bowl",
]  # fmt: skip
ADJECTIVES = [
    "red", "blue", "green", "white", "black", "brown", "small", "large", "young", "old", "wooden",
    "empty", "colorful", "little", "tall",
]  # fmt: skip
VERBS = [
    "sitting on", "standing next to", "holding", "riding", "walking past", "looking at", "lying on",
    "parked beside", "playing with", "flying over", "in front of", "on top of", "leaning against",
]  # fmt: skip
PLACES = [
    "in a field", "on the beach", "at night", "in the snow", "on a city street", "in a kitchen",
    "near the water", "in the park", "under a tree", "in a living room", "on a sunny day",
]  # fmt: skip


def captions(count: int) -> list[str]:
    """So many different captions, always the same ones; about ten words each, as COCO's."""
    chance = random.Random(0)

    def thing() -> str:
        words = [chance.choice(["a", "a", "a", "the", "two", "some"])]
        if chance.random() < 0.7:
            words.append(chance.choice(ADJECTIVES))
        return " ".join([*words, chance.choice(NOUNS)])

    made: dict[str, None] = {}
    while len(made) < count:
        parts = [thing(), chance.choice(VERBS), thing()]
        if chance.random() < 0.9:
            parts.append(chance.choice(PLACES))
        made[" ".join(parts)] = None
    return list(made)


def main(given: Options) -> None:
    import torch

    import mmfm

    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        place = Path(name)
        os.environ["MMFM_CACHE"] = str(place / "cache")  # what is tried here stays here
        clip = _clip.write_open_clip(given.architecture, place / "open_clip")
        model = mmfm.load(f"local-dir:{clip}", device="cpu")
        peers = {
            "open_clip": _clip.OpenClip(clip),
            "sentence-transformers": _clip.SentenceTransformers(
                _clip.write_transformers(clip, place / "transformers")
            ),
        }
        compare(given.architecture, model, peers, given.rounds)
        model = mmfm.load(given.folder, device="cpu")
        compare(model.name, model, {"open_clip": _clip.OpenClip(given.folder)}, given.rounds)


def compare(name: str, model: Any, peers: dict[str, Any], rounds: int) -> None:
    """The lines of one model, at both batch sizes."""
    for size, count in COUNTS.items():
        texts = captions(count)
        tokens = float((model.backbone.tokenize(texts).argmax(dim=1) + 1).float().mean())
        sides = {peer: partial(side.texts, texts, size) for peer, side in peers.items()}
        for precision in KINDS.values():
            sides[precision] = partial(
                model.embed_texts, texts, batch_size=size, precision=precision
            )
        turns = _clip.take_turns(sides, rounds)
        auto = chosen(model.backbone)["text"]
        for kind, precision in KINDS.items():
            told = kind.replace("auto", f"auto ({auto})")
            for peer, side in peers.items():
                case = (
                    f"{name}, {told} against {peer}, {len(texts)} captions of {tokens:.1f} tokens, "
                    f"batches of {size}"
                )
                wanted = None if kind == "exact" else COSINE
                turns.report("embed_texts", case, precision, peer, len(texts), "texts",
                             difference=DIFFERENCE, cosine=wanted,
                             peer_version=versions(side.package))  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__, rounds=3))
