"""Shards to batches: `mmfm.data.Loader` against webdataset with open_clip's transform, one process.

The peer is what open_clip trains from: webdataset, Pillow, torchvision, batches of normalised
floats. Ours reads the same tars in shuffled order and gives uint8, which the training module
normalises on its device; a case says so when we normalise too. 64 px JPEGs are the layout of
img2dataset; 1 megapixel stands for photographs, as noise of their spectrum (1/f) at quality 90.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks import Options, interleave, options, report, versions

SMALL, NUM_SMALL, BATCH_SMALL = 64, 1024, 128
LARGE, NUM_LARGE, TARGET = 1024, 16, 224
QUALITY = 90
SLOPE = 1.2  # amplitudes fall as frequency to this power; photographs: 1 to 1.3
EXACT = {"mean": 1e-3, "max": 1e-2}  # levels of 255: rounding of float32
ONCE, TWICE = {"mean": 3.0, "max": 24.0}, {"mean": 1.0, "max": 8.0}  # by the margin of decoding

Batches = Iterator[tuple[np.ndarray, list[str], list[str]]]  # pixels, captions, keys


def photograph(size: int, random: np.random.Generator) -> Image.Image:
    """Noise with the spectrum of photographs, luma and weaker chroma."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    planes = []
    for contrast in (45, 16, 16):  # standard deviations of Y, Cb, Cr
        waves = random.standard_normal(frequency.shape) + 1j * random.standard_normal(
            frequency.shape
        )
        plane = np.fft.irfft2(waves / frequency**SLOPE, (size, size))
        planes.append(128 + contrast * plane / plane.std())
    ycc = np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(ycc, "YCbCr").convert("RGB")


def drawings() -> list[Image.Image]:
    """The shipped gallery: 240 drawings of 64 px on white."""
    from mmfm.cli import gallery
    from mmfm.preprocess.images import load_image

    return [load_image(drawing.path) for drawing in gallery.read()]


def write_tar(path: Path, images: list[Image.Image], kind: str) -> None:
    """A shard as img2dataset writes it: picture, `.txt` and `.json`."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in enumerate(images):
            key, caption = f"{number:09d}", f"a picture, number {number} of many"
            stream = io.BytesIO()
            image.save(stream, kind, quality=QUALITY)
            meta = {
                "caption": caption, "url": f"https://example.org/{key}.jpg", "key": key,
                "status": "success", "error_message": None, "width": image.width,
                "height": image.height, "original_width": 800, "original_height": 600,
                "exif": "{}", "sha256": f"{number:064x}",
            }  # fmt: skip
            parts = {
                "jpg" if kind == "JPEG" else "png": stream.getvalue(),
                "json": json.dumps(meta).encode(), "txt": caption.encode(),
            }  # fmt: skip
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def peer_batches(tar: Path, size: int, batch_size: int) -> Batches:
    """open_clip_train's evaluation pipeline: normalised float32 (B, 3, size, size)."""
    import webdataset as wds
    from open_clip.transform import image_transform

    pipeline = wds.DataPipeline(
        wds.SimpleShardList(str(tar)),
        wds.tarfile_to_samples(),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=image_transform(size, is_train=False)),
        wds.to_tuple("image", "text", "__key__"),
        wds.batched(batch_size, partial=True),
    )
    for images, texts, keys in pipeline:
        yield images, list(texts), list(keys)


def our_batches(loader, steps: int) -> Batches:
    """uint8 (B, size, size, 3)."""
    for step in range(steps):
        batch = loader.batch(step)
        yield batch.images, [captions[0] for captions in batch.captions], batch.keys


def normalised(batches: Batches) -> Batches:
    """uint8 batches as the peer's floats."""
    import torch
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    scale = 1 / (255 * torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1))
    shift = -255 * torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1) * scale
    for images, texts, keys in batches:
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        floats = planes.to(torch.float32, memory_format=torch.contiguous_format)
        yield floats.mul_(scale).add_(shift), texts, keys


def to_levels(images) -> np.ndarray:
    """Either kind of pixels as (B, size, size, 3) floats in 0..255."""
    if isinstance(images, np.ndarray):
        return images.astype(np.float64)
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    floats = images.permute(0, 2, 3, 1).double().numpy()
    return 255 * (floats * np.array(OPENAI_DATASET_STD) + np.array(OPENAI_DATASET_MEAN))


def compare(ours: Batches, peer: Batches) -> dict[str, float]:
    """Differences in levels of 255 over the same samples; infinite when those are not the same."""

    def by_key(batches: Batches) -> dict[tuple[str, str], np.ndarray]:
        return {
            (key, text): image
            for images, texts, keys in batches
            for image, text, key in zip(to_levels(images), texts, keys, strict=True)
        }

    a, b = by_key(ours), by_key(peer)
    if a.keys() != b.keys():
        return {"mean": float("inf"), "max": float("inf"), "psnr": 0.0}
    gaps = np.stack([a[key] - b[key] for key in a])
    power = max(float((gaps**2).mean()), 1e-12)
    return {
        "mean": round(float(np.abs(gaps).mean()), 4),
        "max": round(float(np.abs(gaps).max()), 4),
        "psnr": round(10 * float(np.log10(255**2 / power)), 2),
    }


def measure(
    case: str, ours: Callable[[], Batches], peer: Callable[[], Batches], amount: int,
    rounds: int, tolerance: dict[str, float],
) -> None:  # fmt: skip
    gate = compare(ours(), peer())
    measured = interleave(lambda: sum(1 for _ in ours()), lambda: sum(1 for _ in peer()), rounds)
    report(
        "loader", case, measured, amount=amount, unit="samples", gate=gate,
        equal=all(gate[name] <= most for name, most in tolerance.items()),
        peer_version=versions("webdataset", "torchvision", "pillow", "open_clip_torch"),
    )  # fmt: skip


def main(given: Options) -> None:
    import torch

    from mmfm.data.cache import PackedCache
    from mmfm.data.dataset import ShardDataset
    from mmfm.data.loader import Loader
    from mmfm.data.order import Order

    torch.set_num_threads(1)
    random = np.random.default_rng(0)

    def run(case, tar, size, batch_size, *, wrap=iter, source=None, tolerance=EXACT, margin=1.0):
        dataset = ShardDataset.open(tar)
        order = Order(np.ones(len(dataset)), min(batch_size, len(dataset)), seed=0)
        loader = Loader(source or dataset, order, image_size=size, margin=margin)
        measure(
            case,
            lambda: wrap(our_batches(loader, order.steps_per_epoch)),
            lambda: peer_batches(tar, size, batch_size),
            len(dataset), given.rounds, tolerance,
        )  # fmt: skip

    with TemporaryDirectory() as name:
        place = Path(name)
        small, flat, large = (place / f"{kind}.tar" for kind in ("small", "drawings", "large"))
        write_tar(small, [photograph(SMALL, random) for _ in range(NUM_SMALL)], "JPEG")
        run("64 px JPEG, uint8", small, SMALL, BATCH_SMALL)
        run("64 px JPEG, normalised floats", small, SMALL, BATCH_SMALL, wrap=normalised)
        cache = PackedCache.build(ShardDataset.open(small), place / "cache", SMALL)
        run("64 px packed cache, uint8", small, SMALL, BATCH_SMALL, source=cache)
        write_tar(flat, drawings(), "PNG")
        run("64 px PNG drawings, uint8", flat, SMALL, len(drawings()))
        write_tar(large, [photograph(LARGE, random) for _ in range(NUM_LARGE)], "JPEG")
        for margin, tolerance in ((1.0, ONCE), (2.0, TWICE)):
            run(f"1 megapixel JPEG to {TARGET} px, uint8, decoded at {margin:g} x or more", large,
                TARGET, NUM_LARGE, margin=margin, tolerance=tolerance)  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
