"""Pictures and texts as people have them -> unit vectors.

Decoding runs ahead in threads while the tower computes; only squares of the tower's size and the
few pictures being decoded are held, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mmfm.encoders.backbone import Backbone
from mmfm.encoders.halving import Halving
from mmfm.encoders.precision import PRECISIONS, encoder
from mmfm.errors import ImageError, InputError
from mmfm.preprocess.images import as_image_list
from mmfm.preprocess.square import reader
from mmfm.preprocess.text import check_texts, truncate_check, word_reader
from mmfm.preprocess.threads import map_in_order
from mmfm.preprocess.transform import Preprocess
from mmfm.shapes import Embeddings

BATCH_SIZE = 64  # pictures or texts in one pass, unless the caller says otherwise
SAMPLES = 8  # pictures that a precision may be tried on
MOST_WORKERS = 16  # threads that decode, on a machine of as many cores

Read = np.ndarray | ImageError  # (S, S, 3) uint8, or why there is none


class Embedder:
    """The towers of one backbone with all that stands before them: reading, checking, batching."""

    def __init__(self, backbone: Backbone, preprocess: Preprocess, device: torch.device) -> None:
        self.backbone = backbone
        self.preprocess = preprocess
        self.device = device

    # ------------------------------------------------------------------ pictures

    def images(
        self, sources: Any, *, batch_size: int | None = None, precision: str = "auto",
        decode: str = "exact", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, D) float32, unit length, of whatever `as_image_list` takes.

        precision: see `MMFM.embed_images`. decode: "exact" gives open_clip's own pixels; "fast"
        decodes large JPEGs at a smaller scale. Raises ImageError naming the first bad picture.
        """
        sources = as_image_list(sources)
        vectors = np.empty((len(sources), self.backbone.config.embed_dim), np.float32)
        stream = self.stream_images(
            sources, batch_size=batch_size, precision=precision, decode=decode
        )
        bar = tqdm(stream, total=len(sources), unit="pictures", disable=not progress, leave=False)
        for position, vector in bar:
            vectors[position] = vector
        return vectors

    def stream_images(
        self, sources: Iterable[Any], *, batch_size: int | None = None, precision: str = "auto",
        decode: str = "exact", on_error: str = "raise",
    ) -> Iterator[tuple[int, np.ndarray | ImageError]]:  # fmt: skip
        """(position, (D,) float32 unit vector) of each source, in order, however many there are.

        sources: may be endless; about two batches of them are taken ahead. on_error: "raise" the
        ImageError of a picture that cannot be read, after the vectors of those before it, or
        "skip": give the error in the place of its vector. Leaving early stops the threads.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is {on_error!r}, wanted raise or skip")
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}, wanted one of {', '.join(PRECISIONS)}")
        squares = self._squares(sources, checked_size(batch_size), decode, on_error)
        return self._stream(squares, precision)

    @torch.inference_mode()
    def see(
        self, sources: Any, *, batch_size: int | None = None, decode: str = "exact",
        progress: bool = False, encode: Callable[[Tensor], Embeddings] | None = None,
    ) -> Iterator[Embeddings]:  # fmt: skip
        """What the heads read, batch by batch: vectors and image tokens, in float32.

        encode: for a head that reads other tokens than `Backbone.encode_images` gives.
        """
        sources, tower = as_image_list(sources), encode or self.backbone.encode_images
        halving = Halving(lambda batch: tower(self._pixels(batch)), _PICTURE)
        with tqdm(total=len(sources), unit="pictures", disable=not progress, leave=False) as bar:
            for batch in self._squares(sources, checked_size(batch_size), decode, "raise"):
                for seen in halving(_stack(batch)):
                    yield seen
                    bar.update(len(seen))

    def _stream(
        self, batches: Iterator[list[Read]], precision: str
    ) -> Iterator[tuple[int, np.ndarray | ImageError]]:
        encode, position = None, 0
        for batch in batches:
            rows: list[np.ndarray] = []
            if any(isinstance(read, np.ndarray) for read in batch):
                squares = _stack(batch)
                encode = encode or self._image_tower(precision, squares)
                rows = [row for part in encode(squares) for row in part]
            left = iter(rows)
            for read in batch:
                yield position, read if isinstance(read, ImageError) else next(left)
                position += 1

    def _squares(
        self, sources: Iterable[Any], size: int, decode: str, on_error: str
    ) -> Iterator[list[Read]]:
        """Batches of `size`, the next being decoded while one is used; under "raise" the pictures
        before a bad one come as a smaller batch.
        """
        read = partial(_read, reader(self.preprocess, decode))
        alone = isinstance(sources, list) and len(sources) == 1
        workers = 1 if alone else min(available_cores(), MOST_WORKERS)
        batch: list[Read] = []
        for _, square in map_in_order(read, sources, workers, ahead=max(size, 2 * workers)):
            if isinstance(square, ImageError):
                if on_error == "raise":
                    if batch:
                        yield batch
                    raise square
                # why a new one: the old one's traceback holds what was decoded of the picture
                square = ImageError(str(square))
            batch.append(square)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _pixels(self, squares: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 on the CPU -> (B, 3, S, S) float32, normalised, on our device."""
        if self.device.type == "cpu":
            return torch.from_numpy(self.preprocess.normalise(squares.numpy()))
        return self.backbone.normalise(squares.to(self.device))

    def _image_tower(self, precision: str, samples: Tensor) -> Halving[np.ndarray]:
        """(B, S, S, 3) uint8 -> (B, D) float32; samples: real pictures that "auto" may try."""
        tower = encoder(self.backbone, precision, "image", self._pixels(samples[:SAMPLES]))
        return Halving(lambda squares: tower(self._pixels(squares)).cpu().numpy(), _PICTURE)

    # ------------------------------------------------------------------ texts

    def texts(
        self, texts: str | Iterable[str], *, batch_size: int | None = None,
        precision: str = "auto", truncate: str = "warn", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, D) float32, unit length. Too long a text is cut with a warning that shows the part.

        Equal texts are computed once, and batches hold texts of like length; the rows are in the
        order of the texts. An empty text has a vector too. truncate: "warn", or "error" to refuse.
        Raises TextError for an empty list or what is not a string.
        """
        size = checked_size(batch_size)
        asked = check_texts(texts, blank=True)
        told = list(dict.fromkeys(asked))
        ids = self._tokenise(told, truncate)
        order = text_lengths(ids).argsort(descending=True)  # longest first: if memory ends, at once
        vectors = np.empty((len(told), self.backbone.config.embed_dim), np.float32)
        encode = self._text_tower(precision, ids[order[:size]])
        with tqdm(total=len(told), unit="texts", disable=not progress, leave=False) as bar:
            for rows in order.split(size):
                vectors[rows.numpy()] = np.concatenate(list(encode(ids[rows])))
                bar.update(len(rows))
        if len(told) == len(asked):
            return vectors
        row = {text: number for number, text in enumerate(told)}
        return vectors[[row[text] for text in asked]]

    def _tokenise(self, texts: list[str], truncate: str) -> Tensor:
        """(N, T) ids, on the CPU."""
        ids = self.backbone.tokenize(texts)
        if reading := word_reader(self.backbone.tokenizer):
            words, marks = reading
            # why: a row that ends in padding was not cut, so it is not tokenised a second time
            full = [texts[row] for row in (ids[:, -1] != ids[:, -2]).nonzero().flatten().tolist()]
            truncate_check(words, full, ids.shape[1], truncate, marks=marks, total=len(texts))
        return ids

    def _text_tower(self, precision: str, samples: Tensor) -> Halving[np.ndarray]:
        """(B, T) ids on the CPU -> (B, D) float32; samples: real texts that "auto" may try."""
        tower = encoder(self.backbone, precision, "text", samples.to(self.device))
        return Halving(lambda ids: tower(ids.to(self.device)).cpu().numpy(), "text")


_PICTURE = "picture"


def _read(read: Callable[[Any], np.ndarray], source: Any) -> Read:
    try:
        return read(source)
    except ImageError as error:
        return error


def _stack(batch: list[Read]) -> Tensor:
    """(B, S, S, 3) uint8 of those that could be read."""
    return torch.from_numpy(np.stack([read for read in batch if isinstance(read, np.ndarray)]))


def text_lengths(ids: Tensor) -> Tensor:
    """(B, T) ids -> (B,) how many of each there are before the padding at the end begins."""
    padding = ids == ids[:, -1:]
    return ids.shape[1] - padding.flip(1).int().cumprod(1).sum(1)


def checked_size(batch_size: int | None) -> int:
    """The batch size asked for, or the usual one. Raises InputError below 1."""
    if batch_size is None:
        return BATCH_SIZE
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, wanted at least 1")
    return batch_size


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
