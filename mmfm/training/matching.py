"""Distribution matching: the few-step mode judged by the pictures it draws, not by its paths.

The student draws from noise. Noise is mixed into its pictures again, and two denoisers look: the
teacher (the guided flow) and a critic, the flow adapted to the student's own pictures. Where the
critic expects something else than the teacher, the student draws it too often or too seldom, and
its pictures are moved by that difference (DMD, 2311.18828, eq. 7 and 8; without pairs as in DMD2,
2405.14867). Distillation of paths comes first (`few_steps.py`): matching starts near the goal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.flow import flow_loss, interpolate, sample_times
from mmfm.layers.adapter import Adapter
from mmfm.training.few_steps import SHARES, FewStepsTask
from mmfm.training.flow import FlowData, FlowShares


class MatchingTask(FewStepsTask):
    """Trains `decoder.few_steps` and a critic that is thrown away afterwards.

    The module is both: `few_steps` and `critic`, whose losses share no gradient.
    """

    def __init__(
        self, decoder: ImageDecoder, train: FlowData, held_out: FlowData,
        *, critic_rank: int = 32, shares: FlowShares = SHARES,
    ) -> None:  # fmt: skip
        super().__init__(decoder, train, held_out, shares=shares)
        self.critic = Adapter(decoder.network, critic_rank, skip=("conditioner.",))
        self.module = nn.ModuleDict({"few_steps": self.module, "critic": self.critic})

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        """The student's matching loss and the critic's flow loss on what the student draws."""
        config, network = self.decoder.config, self.decoder.network
        told = self.train.draw(rows, self.shares, generator)
        with torch.no_grad():
            condition = network.conditioner(told.embeddings, told.text_open, told.pooled_open)
        shape = (len(rows), config.channels, config.map_size, config.map_size)
        x = torch.randn(shape, generator=generator).to(told.embeddings.pooled)
        drawn = self.walk(self.student(), condition, x)[-1]
        critic = self.critic.bind(network)

        def noised() -> tuple[Tensor, Tensor, Tensor]:
            t = sample_times(len(rows), config.shift, generator).to(x)
            x_0 = torch.randn(shape, generator=generator).to(x)
            return interpolate(x_0, drawn.detach(), t), t, x_0

        with torch.no_grad():
            x_t, t, _ = noised()
            wanted = self.teacher(condition)(x_t, t).float()
            expected = critic(x_t, t, condition).float()
            moved = towards_teacher(drawn, wanted, expected)
        matching = (drawn - moved).square().mean() / 2
        x_t, t, x_0 = noised()
        learned = flow_loss(critic(x_t, t, condition).float(), x_0, drawn.detach(), t)
        parts = {
            "matching": (wanted - expected).square().mean(), "critic": learned.detach(),
        }  # fmt: skip
        return matching + learned, parts

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        return super().evaluate(module["few_steps"])


def towards_teacher(drawn: Tensor, wanted: Tensor, expected: Tensor) -> Tensor:
    """The pictures (B, C, h, w) moved by what the teacher wants and the critic did not expect.

    Per picture in units of the teacher's own mean absolute error, so that noise levels count alike
    (DMD, eq. 8).
    """
    scale = (drawn - wanted).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return drawn + (wanted - expected) / scale
