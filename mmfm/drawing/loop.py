"""The loop that draws: batches of pictures, each with its own seed, through the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mmfm.decoder.decoder import Start
from mmfm.decoder.sampler import picture_seed
from mmfm.drawing.asks import Ask
from mmfm.drawing.precision import TRIED, network_in
from mmfm.drawing.sampling import FEW, Progress, Sampling
from mmfm.preprocess.images import to_pil

BATCH_SIZE = 64  # pictures drawn at once
BATCH_ON_CPU = 16  # what they need stays in the caches of a processor


@dataclass(frozen=True)
class Scene:
    """What is drawn: conditions of K pictures, what they begin from, the map's size, and pixels
    (1, 3, H, W) that are put back at the end, NaN where there are none.
    """

    told: list[Ask]
    start: Start
    size: tuple[int, int]
    kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.told[0].embeddings)


def draw(decoder: Any, scene: Scene, sampling: Sampling) -> Tensor:
    """(K * num_images * rerank, 3, H, W) in [-1, 1], in the order of these three."""
    draws = [
        (row, picture_seed(sampling.seed, i, k))
        for row in range(len(scene)) for i in range(sampling.num_images)
        for k in range(sampling.rerank)
    ]  # fmt: skip
    device = next(decoder.network.parameters()).device
    size = BATCH_ON_CPU if device.type == "cpu" else BATCH_SIZE
    batches = [draws[i : i + size] for i in range(0, len(draws), size)]
    made: list[Tensor] = []
    with tqdm(total=len(draws), unit="pictures", disable=not sampling.progress, leave=False,
              desc="drawing") as bar:  # fmt: skip
        painter = _Painter(decoder, scene, sampling, len(batches), bar)
        few = draws[:TRIED]
        own = decoder.few_network() if sampling.sampler == FEW else decoder.network
        painter.network, _ = network_in(
            sampling.precision, own, lambda network: painter.paint(few, network)
        )
        for number, batch in enumerate(batches):
            made.append(painter.paint(batch, painter.network, (number, number * size)))
    return torch.cat(made)


class _Painter:
    """Draws one batch after the other, and tells how far it is."""

    def __init__(
        self, decoder: Any, scene: Scene, sampling: Sampling, batches: int, bar: tqdm
    ) -> None:
        self.decoder, self.scene, self.sampling = decoder, scene, sampling
        self.batches, self.bar = batches, bar
        self.network: Any = decoder.network

    def paint(
        self, batch: list[tuple[int, int]], network: Any, place: tuple[int, int] | None = None
    ) -> Tensor:
        """Pictures for rows and their seeds.

        place: number of the batch and its first picture, to tell of it; None = not told.
        """
        rows, seeds = (list(column) for column in zip(*batch))
        sampling, scene = self.sampling, self.scene
        parts = [
            ask.part(self.decoder.network.conditioner, rows, seeds, sampling.noise_level)
            for ask in scene.told
        ]

        def tell(done: int, evaluations: int, clean: Tensor) -> None:
            if place is not None:
                self._tell(place, done, evaluations, len(batch), clean)

        maps = self.decoder.draw(
            parts, seeds, num_steps=sampling.num_steps, sampler=sampling.solver,
            interval=sampling.guidance_interval, size=scene.size, start=scene.start,
            network=network, progress=tell,
        )  # fmt: skip
        return self._pictures(maps)

    def _pictures(self, maps: Tensor) -> Tensor:
        images = self.decoder.space.decode(maps).clamp(-1, 1)
        kept = self.scene.kept
        return images if kept is None else torch.where(kept.isnan(), images, kept)

    def _tell(
        self, place: tuple[int, int], done: int, evaluations: int, count: int, clean: Tensor
    ) -> None:
        number, first = place
        self.bar.update(count / evaluations)
        if self.sampling.callback is not None:
            self.sampling.callback(Progress(
                done=number * evaluations + done, total=self.batches * evaluations,
                first=first, preview=lambda: to_pil(self._pictures(clean)),
            ))  # fmt: skip
