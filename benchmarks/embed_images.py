"""Picture files to vectors: `model.embed_images` against open_clip's transform and `encode_image`.

Both begin with the file: reading, decoding and resizing are part of what is measured.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks import Options, interleave, options, report

BATCH_SIZE = 64
ENLARGED, ENLARGED_SIZE = 64, 512  # so many of the drawings, at so many pixels
TOLERANCE = 1e-4  # of any number of a vector
COSINE = 0.9999  # of the two vectors of any picture


class Peer:
    """What open_clip's README does with a model, in batches."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model = model.eval()

    def embed(self, files: list[Path]) -> np.ndarray:
        import torch

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH_SIZE):
                batch = files[start : start + BATCH_SIZE]
                images = torch.stack([self.transform(Image.open(file)) for file in batch])
                vectors.append(self.model.encode_image(images, normalize=True))
        return torch.cat(vectors).numpy()


def enlarged(files: list[Path], folder: Path) -> list[Path]:
    """Some of the drawings written at 512 pixels, so that there is something to resize."""
    made = []
    for file in files[:: max(1, len(files) // ENLARGED)][:ENLARGED]:
        with Image.open(file) as image:
            large = image.convert("RGB").resize((ENLARGED_SIZE, ENLARGED_SIZE))
        large.save(folder / file.name)
        made.append(folder / file.name)
    return made


def main(given: Options) -> None:
    import torch

    import mmfm
    from mmfm.cli import gallery

    torch.set_num_threads(1)
    model, peer = mmfm.load(given.folder, device="cpu"), Peer(given.folder)
    drawings = [drawing.path for drawing in gallery.read()]
    with TemporaryDirectory() as folder:
        cases = {
            f"{len(drawings)} drawings as they ship": drawings,
            f"{ENLARGED} drawings of {ENLARGED_SIZE} pixels": enlarged(drawings, Path(folder)),
        }
        for case, files in cases.items():
            measured = interleave(
                lambda files=files: model.embed_images(files, batch_size=BATCH_SIZE),
                lambda files=files: peer.embed(files),
                given.rounds,
            )
            ours, theirs = measured.our_output, measured.peer_output
            cosine = float((ours * theirs).sum(axis=1).min())
            equal = cosine >= COSINE and np.abs(ours - theirs).max() <= TOLERANCE
            report(
                "embed_images", f"{model.name}, {case}", measured, amount=len(files),
                unit="pictures", gate={"cosine": round(cosine, 6)}, equal=bool(equal),
            )  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
