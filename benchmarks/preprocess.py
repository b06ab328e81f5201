"""JPEG bytes to the tower's input: ours, exact and fast, against open_clip's own transform.

Pictures are noise with the spectrum of photographs at quality 90, brought to 224 pixels. Exact has
to give the transform's own numbers; fast has to keep the embeddings of a ViT-B/32 (weights from a
seed) and of the model that ships (at its own size): the smallest cosine of all pictures is told.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks import Options, interleave, options, report, versions
from benchmarks.loader import QUALITY, photograph

SIDE = 224
SIZES = {"12 megapixels": (4000, 3000), "1 megapixel": (1024, 1024), "0.2 megapixels": (500, 375)}
TURNS = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)
AT_ONCE = {"12 megapixels": 1, "1 megapixel": 4, "0.2 megapixels": 12}  # times three, in a round
DIFFERENCE = 1e-6  # of any number, in exact mode
COSINE = 0.995  # of any picture's two vectors, in fast mode

Embed = Callable[[np.ndarray], np.ndarray]  # (B, 3, S, S) -> (B, D), unit length


def jpegs(width: int, height: int, random: np.random.Generator) -> list[bytes]:
    """Three pictures: other parts of one landscape, turned."""
    whole = photograph(max(width, height), random)
    made = []
    for turn in TURNS:
        image = (whole if turn is None else whole.transpose(turn)).crop((0, 0, width, height))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        made.append(stream.getvalue())
    return made


def vit() -> Embed:
    import open_clip
    import torch

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", load_weights=False).eval()

    @torch.inference_mode()
    def embed(pixels: np.ndarray) -> np.ndarray:
        return model.encode_image(torch.from_numpy(pixels), normalize=True).numpy()

    return embed


def smallest_cosine(exact: np.ndarray, fast: np.ndarray, embed: Embed) -> float:
    return round(float((embed(exact) * embed(fast)).sum(axis=1).min()), 6)


def main(given: Options) -> None:
    import torch
    from open_clip.transform import image_transform

    import mmfm
    from mmfm.preprocess import scaled
    from mmfm.preprocess.square import reader
    from mmfm.preprocess.transform import Preprocess

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    model, tower = mmfm.load(given.folder, device="cpu"), vit()
    preprocess, theirs = Preprocess(image_size=SIDE), image_transform(SIDE, is_train=False)

    def ours(data: list[bytes], decode: str, how: Preprocess = preprocess) -> np.ndarray:
        read = reader(how, decode)
        return how.normalise([read(one) for one in data])

    def peer(data: list[bytes]) -> np.ndarray:
        return torch.stack([theirs(Image.open(io.BytesIO(one))) for one in data]).numpy()

    @torch.inference_mode()
    def shipped(pixels: np.ndarray) -> np.ndarray:
        return model.backbone.encode_images(torch.from_numpy(pixels)).pooled.numpy()

    for size, sides in SIZES.items():
        data = jpegs(*sides, random)
        many = data * AT_ONCE[size]
        for case, decode, back_end in (
            ("exact", "exact", scaled.simplejpeg()),
            ("fast", "fast", scaled.simplejpeg()),
            ("fast, by Pillow alone", "fast", None),
        ):
            with patch.object(scaled, "simplejpeg", lambda module=back_end: module):
                measured = interleave(
                    lambda decode=decode, many=many: ours(many, decode),
                    lambda many=many: peer(many),
                    given.rounds,
                )
                exact, fast = (ours(data, one, model.preprocess) for one in ("exact", decode))
            made, wanted = measured.our_output[:3], measured.peer_output[:3]
            if decode == "exact":
                gate = {"max": float(np.abs(made - wanted).max())}
                equal = gate["max"] <= DIFFERENCE
            else:
                gate = {
                    "cosine ViT-B/32": smallest_cosine(wanted, made, tower),
                    f"cosine {model.name}": smallest_cosine(exact, fast, shipped),
                }
                equal = min(gate.values()) >= COSINE
            report(
                "preprocess", f"{size}, {case}", measured, amount=len(many), unit="pictures",
                gate=gate, equal=equal,
                peer_version=versions("open_clip_torch", "torchvision", "pillow"),
            )  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
