"""JPEG files to vectors: `model.embed_images` against open_clip and sentence-transformers.

All begin with the file: reading, decoding and resizing are part of what is measured. All sides have
the weights of one ViT-B-32, from a seed; pictures are noise with the spectrum of photographs at
quality 90. "exact" decodes as the peers do and computes in float32; "auto" computes in the
precision that it chose on this machine, which the case names; "fast" also decodes at a smaller
scale. The model that ships is compared on the drawings of the gallery.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import Options, _clip, options, versions
from benchmarks.preprocess import SIZES, jpegs
from mmfm.encoders.precision import chosen

COUNTS = {"12 megapixels": 6, "1 megapixel": 16, "0.2 megapixels": 16}  # files of each size
ENLARGED, ENLARGED_SIZE = 64, 512  # so many of the drawings, at so many pixels
DIFFERENCE = 1e-5  # of any number of a vector
RESIZED = 0.9999  # cosine where the peer is transformers, whose resizing rounds otherwise
KINDS = {  # our settings, and the least cosine of the two vectors of any picture
    "exact": ({"precision": "fp32"}, None),
    "auto": ({"precision": "auto"}, 0.999),
    "auto, fast": ({"precision": "auto", "decode": "fast"}, 0.994),  # 0.995 of decoding alone
}


def photographs(folder: Path) -> dict[str, list[Path]]:
    """JPEG files of each size; three pictures, each several times."""
    random = np.random.default_rng(0)
    made = {}
    for name, (width, height) in SIZES.items():
        data = cycle(jpegs(width, height, random))
        made[f"{COUNTS[name]} JPEGs of {name}"] = files = [
            folder / f"{width}-{number}.jpg" for number in range(COUNTS[name])
        ]
        for file, bits in zip(files, islice(data, len(files)), strict=True):
            file.write_bytes(bits)
    return made


def drawings(folder: Path) -> dict[str, list[Path]]:
    """The gallery as it ships, and some of it at 512 pixels, so that there is much to resize."""
    from mmfm.cli import gallery

    files, made = [drawing.path for drawing in gallery.read()], []
    for file in files[:: max(1, len(files) // ENLARGED)][:ENLARGED]:
        with Image.open(file) as image:
            large = image.convert("RGB").resize((ENLARGED_SIZE, ENLARGED_SIZE))
        large.save(folder / file.name)
        made.append(folder / file.name)
    return {
        f"{len(files)} drawings as they ship": files,
        f"{len(made)} drawings of {ENLARGED_SIZE} pixels": made,
    }


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
        compare(given.architecture, model, peers, photographs(place), list(KINDS), given.rounds)
        model = mmfm.load(given.folder, device="cpu")
        peers = {"open_clip": _clip.OpenClip(given.folder)}
        compare(model.name, model, peers, drawings(place), ["exact"], given.rounds)


def compare(
    name: str, model: Any, peers: dict[str, Any], cases: dict[str, list[Path]], kinds: list[str],
    rounds: int,
) -> None:  # fmt: skip
    """The lines of one model."""
    for case, files in cases.items():
        sides = {peer: partial(side.images, files) for peer, side in peers.items()}
        for kind in kinds:
            settings: dict[str, str] = KINDS[kind][0]
            sides[kind] = partial(model.embed_images, files, **settings)
        turns = _clip.take_turns(sides, rounds)
        auto = chosen(model.backbone).get("image", "")
        for kind in kinds:
            told = kind.replace("auto", f"auto ({auto})")
            for peer, side in peers.items():
                cosine = KINDS[kind][1] or (None if peer == "open_clip" else RESIZED)
                turns.report("embed_images", f"{name}, {told} against {peer}, {case}", kind, peer,
                             len(files), "pictures", difference=DIFFERENCE, cosine=cosine,
                             peer_version=versions(side.package))  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__, rounds=3))
