"""Words that know where their things stand: an aim for the decoder's text reader beside the flow's.

In "a dog left of a cat" the flow has to learn at once which word is on which side and how to draw
there, and for long learns neither (docs/experiments.md). Composed scenes say where each name
stands, so the reader is told: from every token of a name, a linear map gives the place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmfm.data.scenes import middles
from mmfm.decoder.network import TextReader
from mmfm.encoders.backbone import Backbone
from mmfm.training.flow import FlowData

_TEXTS = 256  # read for this alone in every step: they cost little beside a step of the flow


class Places:
    """The texts of `data` that are about scenes, and the place of each token that names a thing."""

    def __init__(self, backbone: Backbone, data: FlowData) -> None:
        self.data = data
        length = data.text_tokens.shape[1]
        told = {
            text: (meta["names"], middles(meta["relation"], len(meta["names"])))
            for captions, meta in zip(data.pictures.captions, data.pictures.meta, strict=True)
            if "names" in meta
            for text in captions[:2]
        }
        names = {name for own, _ in told.values() for name in own}
        words = {name: _words(backbone, name) for name in names}
        self.rows = torch.tensor([data.text_rows[text] for text in told], dtype=torch.int64)
        self.places = torch.full((len(told), length, 2), torch.nan)
        for row, (text, (own, at)) in enumerate(told.items()):
            ids, end = [0, *_words(backbone, text)], 0  # a token for the start of the text
            for name, place in zip(own, at, strict=True):
                first = find(words[name], ids, end)
                end = first + len(words[name])
                self.places[row, first:end] = torch.tensor(place)

    def __len__(self) -> int:
        return len(self.rows)

    def loss(self, reader: TextReader, generator: torch.Generator) -> Tensor:
        """Mean squared error of the places, in squares of the picture's side, of some texts."""
        chosen = torch.randint(len(self), (_TEXTS,), generator=generator)
        mask = self.data.text_mask[self.rows[chosen]]
        length = int(mask.sum(dim=1).max())
        tokens = self.data.text_tokens[self.rows[chosen], :length].float()
        device = self.data.device
        read = reader(tokens.to(device), mask[:, :length].to(device))
        wanted = self.places[chosen, :length].to(device)
        named = ~wanted[..., 0].isnan()
        return (reader.places(read[named]).float() - wanted[named]).square().mean()


def find(part: Sequence[int], whole: Sequence[int], begin: int = 0) -> int:
    """Where `part` first stands in `whole`, from `begin` on. Raises ValueError when it does not."""
    for start in range(begin, len(whole) - len(part) + 1):
        if list(whole[start : start + len(part)]) == list(part):
            return start
    raise ValueError(f"{part} is not in {whole}")


def _words(backbone: Backbone, text: str) -> list[int]:
    """Its tokens without start, end and padding."""
    return backbone.tokenizer.encode(text)
