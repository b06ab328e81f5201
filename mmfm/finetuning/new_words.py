"""Search learns words that nobody has read yet; texts without them do not change.

A made-up word falls into pieces ("zor", "b"). What the text tower knows of a piece is a row of its
token embedding; rows that no known text uses say nothing yet, and those that begin words of known
pieces which the caption head would not spell say little. They alone learn, so that a caption with
such a piece comes to the vectors of its pictures (textual inversion, 2208.01618, for search in
place of drawing). A text without such a piece keeps its vector bit by bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.towers import text_tower
from mmfm.shapes import Embeddings
from mmfm.training.seen import Seen

Captions = list[tuple[str, ...]]
_CHUNK = 256  # texts tokenized at once
_EXPECTED = 0.05  # what the head gives to the pieces of nine in ten words that it knows, or more
_LEAST = 2  # pictures of which a piece must be said


def new_pieces(backbone: Backbone, captions: Captions, known: set[int]) -> list[int]:
    """Ids of the tokens that are said of two pictures or more and are not `known`.

    captions: of each picture. None where nothing is known, or where the tower shows no rows.
    """
    if not known or _embedding(backbone) is None:
        return []
    counts = Counter(piece for said in captions for piece in _pieces(backbone, said))
    return sorted(piece for piece, n in counts.items() if n >= _LEAST and piece not in known)


def known_pieces(
    backbone: Backbone, vocabulary: Vocabulary | None, texts: Iterable[str]
) -> set[int]:
    """Ids of the tokens that known texts are made of: of the caption head's training, which its
    vocabulary lists, and of `texts`."""
    return _pieces(backbone, texts) | set(vocabulary.token_ids if vocabulary is not None else ())


@torch.no_grad()
def strange_beginnings(
    captioner: Captioner, vocabulary: Vocabulary, seen: Embeddings, captions: Captions
) -> set[int]:
    """Ids of the tokens that begin words of known pieces which the caption head would never spell.

    "fe" is known from "feaux", "fep" is not: shown any of the pictures `seen`, the head expects no
    "p" after "fe". Beginnings of one letter, which many words share, are left out.
    """
    memory, mask = captioner.memory(seen)
    found = set()
    for word in sorted({word for said in captions for text in said for word in text.split()}):
        pieces, local = vocabulary.tokenizer.encode(word), vocabulary.encode(word)
        first = vocabulary.tokenizer.decoder[pieces[0]] if pieces else ""
        is_spelled = 1 < len(pieces) == len(local) < captioner.max_tokens
        if not is_spelled or len(first) < 2 or not word.isalpha():
            continue
        ids = torch.tensor([vocabulary.start_id, *local]).expand(len(mask), -1)
        expected = captioner.logits(captioner.hidden(ids, memory, mask)).softmax(dim=-1)
        places = torch.arange(1, len(local))
        if float(expected[:, places, local[1:]].mean(dim=0).max()) < _EXPECTED:
            found.add(pieces[0])
    return found


class NewWords(nn.Module):
    """rows (R, width) of the token embedding, for the tokens `ids`; as they are at first."""

    def __init__(self, backbone: Backbone, ids: list[int]) -> None:
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.rows = nn.Parameter(_embedding(backbone).weight.detach()[ids].clone())

    def read(self, backbone: Backbone, texts: list[str]) -> Tensor:
        """(N, D) unit vectors of texts by a tower with these rows in place of its own."""

        def replaced(embedding: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            is_new = args[0][..., None] == self.ids  # (B, T, R)
            own = is_new.to(self.rows) @ self.rows
            return torch.where(is_new.any(dim=-1, keepdim=True), own.to(output), output)

        hook = _embedding(backbone).register_forward_hook(replaced)
        try:
            return backbone.encode_texts(backbone.tokenize(texts)).pooled
        finally:
            hook.remove()

    @torch.no_grad()
    def write(self, backbone: Backbone) -> None:
        """Make these rows the tower's own."""
        _embedding(backbone).weight[self.ids] = self.rows


class NewWordsTask:
    """One less the cosine between a caption with a new piece and a view of its picture."""

    def __init__(
        self, backbone: Backbone, ids: list[int], seen: Seen, captions: Captions,
        held_out: tuple[Tensor, Captions],
    ) -> None:  # fmt: skip
        """seen: V views of the N pictures that `captions` are of. held_out: vectors (M, D) of
        pictures that are not learned from, and what is said of each."""
        self.module = NewWords(backbone, ids)
        self.backbone, self.seen, self.num_pictures = backbone, seen, len(captions)
        # for each picture the captions that have a new piece
        self.said = [with_pieces(backbone, own, ids) for own in captions]
        self.visits = np.array([float(bool(own)) for own in self.said])  # (N,) of an epoch
        vectors, theirs = held_out
        told = [with_pieces(backbone, own, ids) for own in theirs]
        places = [i for i, own in enumerate(told) if own] or None
        if places is None:  # none to measure on: what is learned from says when it is learned
            learned = np.flatnonzero(self.visits)
            self.asked = (self._pooled(learned), [self.said[i][0] for i in learned])
        else:
            self.asked = (vectors[places], [told[i][0] for i in places])

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """rows: of pictures of which a new piece is said."""
        draws = torch.rand(2, len(rows), generator=generator)
        count = self.num_pictures
        views = (draws[0] * (len(self.seen) // count)).long().numpy()
        texts = [
            self.said[row][int(draw * len(self.said[row]))]
            for row, draw in zip(rows, draws[1].tolist(), strict=True)
        ]
        different = list(dict.fromkeys(texts))
        vectors = self.module.read(self.backbone, different)
        said = vectors[[different.index(text) for text in texts]]
        return (1 - (said * self._pooled(rows + views * count)).sum(dim=1)).mean(), {}

    def evaluate(self, module: NewWords) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Mean cosine of the first caption that has a new piece and its picture."""
        pooled, texts = self.asked
        near = (module.read(self.backbone, texts) * pooled).sum(dim=1).mean().item()
        return {"held_out_cosine": round(near, 5)}, {}

    def _pooled(self, places: np.ndarray) -> Tensor:
        return self.seen.take(places, grids=False).pooled


def with_pieces(backbone: Backbone, texts: Iterable[str], ids: list[int]) -> list[str]:
    """Those of `texts` that have one of the tokens `ids`."""
    return [text for text in texts if _pieces(backbone, [text]) & {*ids}]


def _pieces(backbone: Backbone, texts: Iterable[str]) -> set[int]:
    """Ids of the tokens of texts, as the tower reads them; start, end and padding left out."""
    texts = list(texts)
    frame = set(backbone.tokenize([""])[0].tolist())
    found: set[int] = set()
    for start in range(0, len(texts), _CHUNK):
        found.update(backbone.tokenize(texts[start : start + _CHUNK]).unique().tolist())
    return found - frame


def _embedding(backbone: Backbone) -> Any:
    """The tower's nn.Embedding of tokens, None where it has none of its own."""
    found = getattr(text_tower(backbone.towers), "token_embedding", None)
    return found if isinstance(found, nn.Embedding) else None
