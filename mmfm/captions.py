"""Captions: the part of the public object that writes about pictures and scores what was written.

A mixin of `MMFM`, where the backbone's embeddings meet the caption head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfm.captioner import decoding
from mmfm.captioner.coca import CoCaHead, WholeVocabulary
from mmfm.encoders.embedder import checked_size
from mmfm.errors import InputError
from mmfm.preprocess.images import as_image_list
from mmfm.preprocess.text import check_texts
from mmfm.shapes import Embeddings

PORTS = {"both": (True, True), "grid": (True, False), "pooled": (False, True)}


class Captions:
    """What `MMFM` has for captions; it brings the embedder, the head and its vocabulary."""

    if TYPE_CHECKING:
        backbone: Any
        embedder: Any
        captioner: Any
        vocabulary: Any
        device: torch.device
        embed_dim: Any
        _need: Any

    @torch.inference_mode()
    def caption(
        self, images: Any = None, *, embeddings: np.ndarray | None = None,
        prompt: str | Sequence[str] = "", num_beams: int = 1, top_p: float | None = None,
        top_k: int | None = None, temperature: float = 1.0, num_captions: int = 1,
        max_tokens: int = 24, min_tokens: int = 0, repetition_penalty: float = 1.0,
        length_penalty: float = 1.0, seed: int | None = None, ports: str = "both",
        batch_size: int | None = None, progress: bool = False,
    ) -> list:  # fmt: skip
        """What each picture shows, in words; or each stored vector (N, D), with no pixels.

        Greedy unless beams or sampling (top_p, top_k, temperature, several captions) are asked
        for. prompt: what the caption begins with, "question: what colour is it? answer:" say; one
        for all, or one for each picture. ports: what the head reads of a picture, its "grid", its
        "pooled" vector, or "both"; of a stored vector there is nothing else. Returns list[str], or
        list[list[str]] when num_captions > 1. Raises InputError on impossible settings.
        """
        captioner, vocabulary = self._caption_head
        said: list[list[str]] = []
        for seen in self._sources(images, embeddings, batch_size, progress):
            memory, mask = captioner.memory(seen, *_ports(ports))
            done, each = len(said), isinstance(prompt, (list, tuple))
            part = list(prompt[done : done + len(seen)]) if each else prompt
            said += decoding.decode(
                captioner, memory, mask, vocabulary, prompt=part, num_beams=num_beams,
                top_p=top_p, top_k=top_k, temperature=temperature, num_captions=num_captions,
                max_tokens=max_tokens, min_tokens=min_tokens, length_penalty=length_penalty,
                repetition_penalty=repetition_penalty, seed=seed,
            )  # fmt: skip
        if isinstance(prompt, (list, tuple)) and len(prompt) != len(said):
            raise InputError(f"got {len(prompt)} prompts for {len(said)} images; pass one for each")
        return said if num_captions > 1 else [captions[0] for captions in said]

    @torch.inference_mode()
    def caption_score(
        self, images: Any = None, texts: str | Sequence[str] = (), *,
        embeddings: np.ndarray | None = None, prompt: str = "", ports: str = "both",
        batch_size: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """(N,) mean log probability per token of text i given picture i; higher fits better.

        embeddings: stored vectors (N, D) in place of pictures. prompt, ports: as in `caption`.
        """
        (captioner, vocabulary), texts = self._caption_head, check_texts(texts)
        if embeddings is None:
            images = as_image_list(images)
            if len(images) != len(texts):
                raise InputError(f"got {len(images)} pictures and {len(texts)} texts, wanted pairs")
        scores, done = [], 0
        for seen in self._sources(images, embeddings, batch_size, False):
            memory, mask = captioner.memory(seen, *_ports(ports))
            part = texts[done : done + len(seen)]
            scores.append(decoding.score(captioner, memory, mask, vocabulary, part, prompt=prompt))
            done += len(seen)
        if done != len(texts):
            raise InputError(f"got {done} vectors and {len(texts)} texts, wanted pairs")
        return torch.cat(scores).float().cpu().numpy()

    @torch.inference_mode()
    def caption_scores(
        self, images: Any = None, texts: str | Sequence[str] = (), *,
        embeddings: np.ndarray | None = None, prompt: str = "", ports: str = "both",
        relative: bool = False, batch_size: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """(N, L) mean log probability per token of every text given every picture.

        relative: less the mean over the pictures, so that a text that is likely of anything gains
        nothing: what naming a picture by the best of L texts wants. Other arguments as in
        `caption_score`.
        """
        (captioner, vocabulary), texts = self._caption_head, check_texts(texts)
        rows: list[Tensor] = []
        for seen in self._sources(images, embeddings, batch_size, False):
            memory, mask = captioner.memory(seen, *_ports(ports))
            for one, one_mask in zip(memory, mask, strict=True):
                rows.append(decoding.score_texts(
                    captioner, one, one_mask, vocabulary, texts, prompt=prompt
                ))  # fmt: skip
        scores = torch.stack(rows).float().cpu().numpy()
        return scores - scores.mean(axis=0) if relative else scores

    @property
    def can_caption(self) -> bool:
        """Whether there is a head to caption with, of its own or of a CoCa."""
        return self.captioner is not None or CoCaHead.fits(self.backbone.towers)

    @cached_property
    def _caption_head(self) -> tuple[Any, Any]:
        """What writes, and its vocabulary: the model's own head, or the decoder of a CoCa."""
        if self.captioner is None and CoCaHead.fits(self.backbone.towers):
            return CoCaHead(self.backbone.towers), WholeVocabulary(self.backbone.tokenizer)
        return self._need("captioner", "captions"), self.vocabulary

    def _sources(
        self, images: Any, embeddings: np.ndarray | None, batch_size: int | None, progress: bool
    ) -> Iterator[Embeddings]:
        if (images is None) == (embeddings is None):
            raise InputError("captions take images or embeddings, one of the two")
        if embeddings is None:
            see = getattr(self._caption_head[0], "see", None)
            return self.embedder.see(images, batch_size=batch_size, progress=progress, encode=see)
        return self._stored(embeddings, batch_size)

    def _stored(self, vectors: np.ndarray, batch_size: int | None) -> Iterator[Embeddings]:
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
        if vectors.ndim != 2 or vectors.shape[1] != self.embed_dim or not len(vectors):
            raise InputError(f"got vectors of shape {vectors.shape}, wanted (N, {self.embed_dim})")
        for part in torch.from_numpy(vectors).split(checked_size(batch_size)):
            yield Embeddings(nn.functional.normalize(part.to(self.device), dim=1))


def _ports(name: str) -> tuple[bool, bool]:
    if name not in PORTS:
        raise InputError(f"ports is {name!r}, wanted one of {', '.join(PORTS)}")
    return PORTS[name]
