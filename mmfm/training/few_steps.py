"""Distilling the guided flow into a few evaluations of the network.

From node to node of the few-step mode the teacher (the flow as it is, guided) makes several Euler
steps, the student (the same network with the adapter) one. This is a distillation of trajectories
and of guidance (Salimans & Ho, 2202.00512; Meng et al., 2210.03142) in one stage, on the states
that the student itself comes to (Ross et al., 1011.0686), so that it learns to mend what it did a
node before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.decoder import sampler
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.few_steps import advance, between, nodes, towards
from mmfm.decoder.guidance import Part, guided
from mmfm.decoder.network import Condition
from mmfm.device import device_of
from mmfm.errors import ModelError
from mmfm.shapes import Embeddings
from mmfm.training.flow import FlowData, FlowShares
from mmfm.training.sheet import grid_sheet

_HELD_OUT = 96  # pictures in the figures
SHARES = FlowShares(text=0.85, both=0.0, pooled=0.1)


class FewStepsTask:
    """Trains `decoder.few_steps`; the decoder's network is the teacher and gets no gradient."""

    def __init__(
        self, decoder: ImageDecoder, train: FlowData, held_out: FlowData,
        *, substeps: int = 2, shares: FlowShares = SHARES,
    ) -> None:  # fmt: skip
        """substeps: Euler steps of the teacher from node to node."""
        if decoder.few_steps is None:
            raise ModelError("this decoder has no few-step mode to train; its few_steps is 0")
        self.module = decoder.few_steps
        self.decoder = decoder.requires_grad_(False).eval()
        self.module.requires_grad_(True)
        self.train, self.held_out = train, held_out
        self.substeps, self.shares = substeps, shares
        self.device = device_of(decoder.network)
        self.times = nodes(decoder.config.few_steps, decoder.config.shift).to(self.device)

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        """Squared error of the clean map, at all nodes of one drawing a row."""
        config, count = self.decoder.config, self.decoder.config.few_steps
        told = self.train.draw(rows, self.shares, generator)
        make = self.decoder.network.conditioner
        student = self.student()
        shape = (len(rows), config.channels, config.map_size, config.map_size)
        x = torch.randn(shape, generator=generator).to(told.embeddings.pooled)
        with torch.no_grad():
            condition = make(told.embeddings, told.text_open, told.pooled_open)
            states = torch.cat(self.walk(student, condition, x)[:-1])
            condition = Condition.stack([condition] * count)
            starts, ends = (
                t.repeat_interleave(len(rows)) for t in (self.times[:-1], self.times[1:])
            )
            reached = self.follow(self.teacher(condition), states, starts, ends)
            wanted = towards(reached, states, starts, ends)
        errors = (student(states, starts, condition).float() - wanted).square()
        by_node = errors.unflatten(0, (count, -1)).flatten(1).mean(dim=1)
        parts = {f"node_{i}": value.detach() for i, value in enumerate(by_node)}
        return by_node.mean(), parts

    def student(self) -> Callable[..., Tensor]:
        """The network with the adapter, through which gradients reach the latter."""
        adapter = self.decoder.few_steps
        assert adapter is not None
        return adapter.bind(self.decoder.network)

    def walk(self, student: Callable, condition: Condition, x: Tensor) -> list[Tensor]:
        """The student's states at all nodes, from noise x."""
        states = [x]
        for start, end in itertools.pairwise(self.times):
            t = start.expand(len(x))
            states.append(advance(student(states[-1], t, condition).float(), states[-1], t, end))
        return states

    def teacher(self, condition: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided flow, as a function of (x, t)."""
        count, width = len(condition.vector), self.decoder.config.pooled_width
        vectors = torch.zeros(count, width, device=self.device)
        closed = torch.zeros(count, dtype=torch.bool, device=self.device)
        without = self.decoder.network.conditioner(Embeddings(vectors), None, closed)
        scale = float(self.decoder.config.few_steps_guidance)
        parts = [Part(condition, scale, 1.0), Part(without, 1.0 - scale, 0.0)]
        return guided(self.decoder.network, parts)

    @torch.no_grad()
    def follow(self, teacher: Callable, x: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        """The teacher's states at times `ends` (B,), from x at `starts` (B,)."""
        times = between(starts, ends, self.substeps, self.decoder.config.shift)
        for a, b in itertools.pairwise(times):
            x = advance(teacher(x, a).float(), x, a, b)
        return x

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Distance to the teacher's clean maps of held-out names, and that of the plain flow.

        Both as shares of the maps' variance; the plain flow makes as many guided Euler steps,
        with twice the evaluations.
        """
        rows = np.arange(min(_HELD_OUT, len(self.held_out.pictures)))
        names = [self.held_out.pictures.captions[r][0] for r in rows]
        told = self.held_out.told(names, self.held_out.pooled(rows))
        closed = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        condition = self.decoder.network.conditioner(told, None, closed)
        config = self.decoder.config
        shape = (config.channels, config.map_size, config.map_size)
        x = sampler.noise(list(range(len(rows))), shape).to(self.device)
        teacher = self.teacher(condition)
        best, plain = x, x
        for start, end in itertools.pairwise(self.times.tolist()):
            starts, ends = (torch.full((len(rows),), t, device=self.device) for t in (start, end))
            best = self.follow(teacher, best, starts, ends)
            plain = advance(teacher(plain, starts), plain, starts, ends)
        made = self.walk(module.merged(self.decoder.network), condition, x)[-1]
        spread = best.var()
        numbers = {
            "held_out": len(rows),
            "distance": round(((made - best).square().mean() / spread).item(), 4),
            "distance_plain": round(((plain - best).square().mean() / spread).item(), 4),
        }
        decode = self.decoder.space.decode
        return numbers, {
            "few_steps": grid_sheet(decode(made[:32])), "flow": grid_sheet(decode(best[:32]))
        }  # fmt: skip
