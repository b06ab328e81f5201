"""Captions to vectors: `model.embed_texts` against open_clip's own tokenizer and `encode_text`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from benchmarks import Options, interleave, options, report

COUNT = 512
TEMPLATES = ("{}", "an emoji of {}", "a drawing of {}")
BATCH_SIZES = (64, 1)
TOLERANCE = 1e-5  # of any number of a vector


def captions() -> list[str]:
    """512 of what one may say of the drawings of the gallery, mixed, always the same ones."""
    from mmfm.cli import gallery

    names = [drawing.text for drawing in gallery.read()]
    texts = [template.format(name) for template in TEMPLATES for name in names]
    return random.Random(0).sample(texts, COUNT)


class Peer:
    """What open_clip's README does with a model, in batches."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        name = f"local-dir:{folder}"
        model, _, _ = open_clip.create_model_and_transforms(name)
        self.model = model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def embed(self, texts: list[str], batch_size: int) -> np.ndarray:
        import torch

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                tokens = self.tokenizer(texts[start : start + batch_size])
                vectors.append(self.model.encode_text(tokens, normalize=True))
        return torch.cat(vectors).numpy()


def main(given: Options) -> None:
    import torch

    import mmfm

    torch.set_num_threads(1)
    model, peer, texts = mmfm.load(given.folder, device="cpu"), Peer(given.folder), captions()
    for batch_size in BATCH_SIZES:
        measured = interleave(
            lambda size=batch_size: model.embed_texts(texts, batch_size=size),
            lambda size=batch_size: peer.embed(texts, size),
            given.rounds,
        )
        ours, theirs = measured.our_output, measured.peer_output
        cosine = float((ours * theirs).sum(axis=1).min())
        report(
            "embed_texts", f"{model.name}, {COUNT} captions, batches of {batch_size}", measured,
            amount=COUNT, unit="texts", gate={"cosine": round(cosine, 6)},
            equal=bool(np.abs(ours - theirs).max() <= TOLERANCE),
        )  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
