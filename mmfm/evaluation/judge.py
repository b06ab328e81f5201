"""The independent judge: a small convolutional classifier that names drawings.

It was trained from scratch on drawings of the training split (`train/judge.py`) and shares no
weights with any backbone, so that a generator cannot please it by being close to the tower it was
trained on. One safetensors file holds the weights and, in its header, sizes, classes and origin.
Pre-activation residual blocks (arXiv:1603.05027) with batch statistics frozen: in use, what it says
of a picture does not depend on the other pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.data.sample import Sample
from mmfm.errors import DataError, ModelError
from mmfm.preprocess.images import as_image_list, load_image, to_pixels
from mmfm.shapes import expect_shape

SHIPPED = Path(__file__).with_name("judge.safetensors")
FORMAT = "mmfm-judge-1"
_BATCH = 128  # pictures looked at together


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Sizes of a judge."""

    num_classes: int
    image_size: int = 64
    patch_size: int = 4  # pixels a side that are folded into channels before the first convolution
    widths: tuple[int, ...] = (64, 128, 192)  # channels at 1/4, 1/8, 1/16 of the size
    depths: tuple[int, ...] = (2, 2, 2)  # residual blocks at each


class JudgeNetwork(nn.Module):
    """images (B, 3, H, W) in [-1, 1] -> logits (B, K), made of `features` (B, E)."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        width, folded = config.widths[0], 3 * config.patch_size**2
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch_size),
            nn.Conv2d(folded, width, 3, padding=1, bias=False),
        ]
        for level, (wider, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for place in range(depth):
                layers.append(_Block(width, wider, 2 if level and not place else 1))
                width = wider
        self.net = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.classify = nn.Linear(width, config.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, E), non-negative: the last map, averaged over its places."""
        expect_shape(images, "B 3 H W", "images")
        return self.net(images.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


class _Block(nn.Module):
    def __init__(self, width: int, wider: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(wider)
        self.conv1 = nn.Conv2d(width, wider, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.skip = nn.Identity() if width == wider else nn.Conv2d(width, wider, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv1(F.relu(self.norm1(x)))
        change = self.conv2(F.relu(self.norm2(change)))
        return self.skip(F.avg_pool2d(x, self.stride) if self.stride > 1 else x) + change


@dataclass(frozen=True)
class Look:
    """What the judge makes of N pictures.

    probabilities: (N, K) float32 over `Judge.classes`. features: (N, E) float32, its last layer
    before the classes, in which FID and CMMD compare sets of pictures.
    """

    probabilities: np.ndarray
    features: np.ndarray

    def ranks(self, classes: np.ndarray) -> np.ndarray:
        """(N,): how many classes are found likelier than, or as likely as, the given one of each
        picture; 0 = named right."""
        own = self.chances(classes)[:, None]
        return (self.probabilities >= own).sum(axis=1) - 1

    def chances(self, classes: np.ndarray) -> np.ndarray:
        """(N,) probability of the given class of each picture."""
        return self.probabilities[np.arange(len(classes)), classes]


class Judge:
    """A trained judge. classes: what it can name; origin: data, command and figures of training."""

    def __init__(
        self, config: JudgeConfig, network: JudgeNetwork, classes: Sequence[str],
        origin: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if len(classes) != config.num_classes or len(set(classes)) != len(classes):
            raise ModelError(
                f"a judge of {config.num_classes} classes got {len(set(classes))} different names"
            )
        self.config = config
        self.network = network.to(memory_format=torch.channels_last).eval()
        self.classes = tuple(classes)
        self.origin = dict(origin or {})
        self._numbers = {name: number for number, name in enumerate(classes)}

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Judge:
        """The judge in a file; without a path the one that ships. Raises ModelError."""
        from safetensors import SafetensorError, safe_open

        path = SHIPPED if path is None else Path(path)
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata() or {}
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            if notes.get("format") != FORMAT:
                raise ModelError(f"{path} is not a judge of format {FORMAT}: make it again")
            sizes: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in json.loads(notes["config"]).items()
            }
            config = JudgeConfig(**sizes)
            network = JudgeNetwork(config)
            network.load_state_dict(weights)
            return cls(config, network, json.loads(notes["classes"]), json.loads(notes["origin"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{path} cannot be read as a judge ({error}); copy it again, or train one with "
                "`python -m train.judge`"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, weights in half precision; the statistics of the norms stay float32."""
        from safetensors.torch import save_file

        weights = {
            name: (value.half() if value.dim() >= 2 else value.float()).contiguous()
            for name, value in self.network.state_dict().items()
        }
        notes = {"config": asdict(self.config), "classes": self.classes, "origin": self.origin}
        texts = {name: json.dumps(value) for name, value in notes.items()}
        save_file(weights, path, {"format": FORMAT, **texts})
        return Path(path)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over sizes, classes and weights: two figures of one hash had the same judge."""
        found = hashlib.sha256(json.dumps([asdict(self.config), self.classes]).encode())
        for name, value in sorted(self.network.state_dict().items()):
            found.update(name.encode() + value.float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def class_of(self, sample: Sample) -> int | None:
        """Number of the class that a drawing's name is; None when the judge does not know it.

        A toned drawing ("waving hand dark skin tone") has none: skin tones are not told apart.
        """
        name = sample.meta.get("name") or next(iter(sample.captions), None)
        return None if name is None else self._numbers.get(name)

    def number(self, name: str) -> int:
        """Number of a class. Raises DataError when there is none."""
        if name not in self._numbers:
            raise DataError(f"the judge knows no {name!r}; it names {len(self.classes)} concepts")
        return self._numbers[name]

    def look(self, images: Any) -> Look:
        """Name pictures: paths, bytes, Pillow pictures, arrays, a list or a folder of them.

        Each is brought to 64 px, alpha on white. Raises ImageError naming what cannot be read.
        """
        sources = as_image_list(images)
        size, parts = self.config.image_size, []
        for start in range(0, len(sources), _BATCH):
            some = [to_pixels(load_image(one), size) for one in sources[start : start + _BATCH]]
            parts.append(self.look_at(torch.from_numpy(np.stack(some))))
        return joined(parts)

    @torch.inference_mode()
    def look_at(self, images: Tensor) -> Look:
        """The same for one batch of tensors (B, 3, 64, 64) in [-1, 1]."""
        size = self.config.image_size
        expect_shape(images, f"B 3 {size} {size}", "images")
        features = self.network.features(images.float().clamp(-1, 1))
        chances = self.network.classify(features).softmax(dim=1)
        return Look(chances.cpu().numpy(), features.cpu().numpy())


def joined(looks: Iterable[Look]) -> Look:
    """Several looks as one, in order."""
    parts = list(looks)
    return Look(*(np.concatenate([getattr(part, name) for part in parts])
                  for name in ("probabilities", "features")))  # fmt: skip
