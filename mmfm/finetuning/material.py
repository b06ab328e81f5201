"""What a fine-tuning works with: pictures to learn, pictures to measure, pictures it knew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmfm.finetuning.original import Original
from mmfm.finetuning.pictures import Pictures, joined


@dataclass(frozen=True)
class Material:
    """new: learned from. held_out: only measured. original: what the model knew already."""

    new: Pictures
    held_out: Pictures
    original: Original | None

    @cached_property
    def captioned(self) -> Pictures:
        """Of what is learned from, what has a caption."""
        return self.new.captioned()

    @cached_property
    def measured(self) -> Pictures:
        """Of the hold-out, what has a caption."""
        return self.held_out.captioned()

    def practised(self, new: Pictures) -> tuple[Pictures, np.ndarray]:
        """New pictures and original ones, and which are original, (N,) bool."""
        parts = [new] if self.original is None else [new, self.original.practice]
        flags = [np.full(len(part), place > 0) for place, part in enumerate(parts)]
        return joined(parts), np.concatenate(flags)
