"""The contract of sentence-transformers 6.2, so that what expects a SentenceTransformer takes MMFM.

Names, order and defaults of arguments are theirs. Where we differ, it is said: our vectors always
have unit length, pictures at URLs are not fetched, and a text that is cut is warned of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmfm.device import pick_device
from mmfm.errors import InputError
from mmfm.sentence.inputs import MODALITIES, Input, as_input, is_single
from mmfm.sentence.pool import Pool, encode_in, start_pool, stop_pool
from mmfm.sentence.quantise import PRECISIONS, quantise
from mmfm.sentence.similarity import SIMILARITIES, similarity, similarity_pairwise
from mmfm.shapes import Embeddings

OUTPUTS = ("sentence_embedding", "token_embeddings", None)
_log = logging.getLogger(__name__)


@dataclass
class ModelCard:
    """What evaluators of sentence-transformers write to, and their caches take names from."""

    base_model: str
    metrics: list[tuple[Any, dict, Any, Any]] = field(default_factory=list)

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: dict, epoch: int = 0, steps: int = 0
    ) -> None:
        """Keep the figures of one evaluation."""
        self.metrics.append((evaluator, metrics, epoch, steps))


class SentenceEncoder:
    """Mixed into MMFM, which gives it the towers and all that is declared first."""

    if TYPE_CHECKING:
        name: Any
        config: Any
        backbone: Any
        device: torch.device
        parts: Any
        embed_dim: Any
        embedder: Any
        backbone_hash: Any

        def embed_images(self, *args: Any, **kwargs: Any) -> np.ndarray: ...
        def embed_texts(self, *args: Any, **kwargs: Any) -> np.ndarray: ...

    truncate_dim: int | None = None
    default_prompt_name: str | None = None
    _similarity_fn_name: str | None = None
    SUPPORTED_SIMILARITY_FN_NAMES = SIMILARITIES

    def encode(
        self, inputs: Any, prompt_name: str | None = None, prompt: str | None = None,
        batch_size: int = 32, show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding", precision: str | None = "float32",
        convert_to_numpy: bool = True, convert_to_tensor: bool = False,
        device: str | torch.device | list[str] | None = None, normalize_embeddings: bool = False,
        truncate_dim: int | None = None, pool: Pool | None = None, chunk_size: int | None = None,
        *, modality: str | None = None, compute: str = "auto", truncate: str = "warn",
        task: str | None = None,
    ) -> Any:  # fmt: skip
        """Texts and pictures, mixed at will, to vectors: (N, D), or (D,) for a single input.

        inputs: str, picture (path, Pillow image, array, tensor, bytes) or {"text": ...} or
            {"image": ...}; one, or a list. A str is a text unless it names a picture file that
            exists; modality="text" or "image" settles it.
        prompt, prompt_name: put before texts; a name is looked up in `prompts`.
        output_value: "token_embeddings" gives a list of (tokens, E) tensors, None a list of dicts
            with both; each a single one for a single input.
        precision: of the result: "float32", "int8", "uint8", "binary" or "ubinary" (`quantise`).
        convert_to_tensor, convert_to_numpy: one tensor, one array (default), or a list of tensors.
        normalize_embeddings: vectors have unit length anyway; after `truncate_dim` it is this that
            makes them so again.
        device: one moves the model there for good, a list starts a process for each. pool: of
            `start_multi_process_pool`; chunk_size: inputs a process takes at a time.
        compute: in which precision the towers work, the `precision` of embed_images.
        truncate: what becomes of texts that are too long, as in embed_texts. task: ignored, as by
            every model without routes.

        Raises InputError, or its ImageError and TextError, on what cannot be encoded.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, wanted at least 1")
        if output_value not in OUTPUTS:
            raise InputError(f"output_value is {output_value!r}, wanted one of {OUTPUTS}")
        precision = precision or "float32"  # why: their evaluators pass None
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}, wanted one of {', '.join(PRECISIONS)}")
        single = is_single(inputs)
        items = [inputs] if single else list(inputs)
        read = [as_input(item, modality) for item in items]
        read = self._prompted(read, prompt, prompt_name)
        if device is not None and not isinstance(device, list):
            self.to(device)
        if output_value != "sentence_embedding":
            said: Any = [self._told(one, output_value) for one in self._each(read, batch_size)]
            return said[0] if single else said
        if show_progress_bar is None:
            show_progress_bar = _log.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        options: dict[str, Any] = {
            "batch_size": batch_size, "compute": compute, "truncate": truncate,
        }  # fmt: skip
        if isinstance(device, list) or pool is not None:
            vectors = self._vectors_in(pool, device, read, options, chunk_size)
        else:
            vectors = self.vectors_of(read, **options, progress=show_progress_bar)
        vectors = self._finished(vectors, truncate_dim, normalize_embeddings, precision)
        if convert_to_tensor or not convert_to_numpy:
            tensor = torch.from_numpy(vectors)
            tensor = tensor.to(self.device) if precision == "float32" else tensor
            given: Any = tensor if convert_to_tensor else list(tensor)
        else:
            given = vectors
        return given[0] if single else given

    def encode_query(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """`encode` with the prompt called "query", unless another is given."""
        return self.encode(inputs, *args, **self._default(("query",), args, options))

    def encode_document(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """`encode` with the prompt called "document", "passage" or "corpus", the first there is."""
        names = ("document", "passage", "corpus")
        return self.encode(inputs, *args, **self._default(names, args, options))

    def vectors_of(
        self, inputs: Sequence[Input], *, batch_size: int = 32, compute: str = "auto",
        truncate: str = "warn", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, D) float32, unit length: of inputs already told apart, in their order."""
        vectors = np.empty((len(inputs), self.embed_dim), np.float32)
        how: dict[str, Any] = {
            "batch_size": batch_size, "precision": compute, "progress": progress,
        }  # fmt: skip
        for modality in MODALITIES:
            rows = [row for row, one in enumerate(inputs) if one.modality == modality]
            values = [inputs[row].value for row in rows]
            if rows and modality == "text":
                vectors[rows] = self.embed_texts(values, truncate=truncate, **how)
            elif rows:
                vectors[rows] = self.embed_images(values, **how)
        return vectors

    # ------------------------------------------------------------------ likeness

    @property
    def similarity_fn_name(self) -> str:
        """ "cosine" unless set to "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        name = getattr(name, "value", name)  # their enumeration
        if name is not None and name not in SIMILARITIES:
            raise InputError(
                f"similarity_fn_name is {name!r}, wanted one of {', '.join(SIMILARITIES)}"
            )
        self._similarity_fn_name = name

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(M, N) tensor by `similarity_fn_name`, of (M, D) and (N, D) arrays, tensors or lists."""
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N,) tensor: of the rows i of both."""
        return similarity_pairwise(self.similarity_fn_name, embeddings1, embeddings2)

    # ------------------------------------------------------------------ what the model is

    @property
    def modalities(self) -> list[str]:
        """What one input may be."""
        return list(MODALITIES)

    def supports(self, modality: Any) -> bool:
        """Whether an input may be of this modality; one that joins several never may."""
        return modality in MODALITIES

    def get_embedding_dimension(self) -> int:
        """Length of the vectors that `encode` gives."""
        return min(self.embed_dim, self.truncate_dim or self.embed_dim)

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before 5.5

    @property
    def max_seq_length(self) -> int:
        """Tokens that the text tower reads, the marks of start and end among them."""
        return self.config.backbone.context_length

    def get_max_seq_length(self) -> int:
        """The same, by its older name."""
        return self.max_seq_length

    @cached_property
    def prompts(self) -> dict[str, str]:
        """Texts that go before others, by name; may be changed."""
        return {"query": "", "document": ""}

    @cached_property
    def model_card_data(self) -> ModelCard:
        """Where evaluators leave their figures."""
        return ModelCard(f"{self.name}-{self.backbone_hash[:12]}")

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Inside this block `encode` gives vectors of `truncate_dim` numbers."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def to(self, device: str | torch.device) -> Any:
        """Move all parts there, and return the model. Raises ModelError when it is absent."""
        wanted = pick_device(str(device))
        if wanted != self.device:
            for part in self.parts.values():
                part.to(wanted)
            self.device = wanted
            self.__dict__.pop("embedder", None)  # it knows the device
        return self

    # ------------------------------------------------------------------ many processes

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> Pool:
        """Processes for `encode(..., pool=)`, one a device. See pool.start_pool."""
        return start_pool(self.to("cpu"), target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: Pool) -> None:
        """End them."""
        stop_pool(pool)

    # ------------------------------------------------------------------ LangChain

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As LangChain's `Embeddings`: a list of floats for each text."""
        return self.encode_document(list(texts), modality="text").tolist()

    def embed_query(self, text: str) -> list[float]:
        """As LangChain's `Embeddings`: of one query."""
        return self.encode_query(text, modality="text").tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` in a thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` in a thread."""
        return await asyncio.to_thread(self.embed_query, text)

    # ------------------------------------------------------------------ inside

    def _default(self, names: Sequence[str], args: tuple, options: dict[str, Any]) -> dict:
        if args or options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return {**options, "prompt_name": next((n for n in names if n in self.prompts), None)}

    def _prompted(
        self, inputs: list[Input], prompt: str | None, prompt_name: str | None
    ) -> list[Input]:
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if prompt is None and name is not None:
            if name not in self.prompts:
                raise InputError(
                    f"there is no prompt {name!r}; there are {', '.join(self.prompts) or 'none'}"
                )
            prompt = self.prompts[name]
        if not prompt:
            return inputs
        return [
            Input("text", prompt + one.value) if one.modality == "text" else one for one in inputs
        ]

    def _vectors_in(
        self, pool: Pool | None, devices: Any, inputs: list[Input], options: dict[str, Any],
        chunk_size: int | None,
    ) -> np.ndarray:  # fmt: skip
        if not inputs:
            return self.vectors_of(inputs)
        own = None if pool is not None else self.start_multi_process_pool(devices)
        try:
            return encode_in(pool or own or {}, inputs, options, chunk_size)
        finally:
            if own is not None:
                self.stop_multi_process_pool(own)

    def _finished(
        self, vectors: np.ndarray, truncate_dim: int | None, normalise: bool, precision: str
    ) -> np.ndarray:
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        if dim is not None:
            if dim < 1:
                raise InputError(f"truncate_dim is {dim}, wanted at least 1")
            vectors = vectors[:, :dim]
        if normalise and dim is not None:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
        return quantise(np.ascontiguousarray(vectors), precision) if len(vectors) else vectors

    def _each(self, inputs: list[Input], batch_size: int) -> Iterator[Embeddings]:
        """What the towers say of each input alone, (1, ...)."""
        found: dict[int, Embeddings] = {}
        for modality in MODALITIES:
            rows = [row for row, one in enumerate(inputs) if one.modality == modality]
            values = [inputs[row].value for row in rows]
            if rows and modality == "text":
                found.update(zip(rows, _alone(self._read_texts(values, batch_size))))
            elif rows:
                found.update(zip(rows, _alone(self.embedder.see(values, batch_size=batch_size))))
        yield from (found[row] for row in range(len(inputs)))

    @torch.inference_mode()
    def _read_texts(self, texts: list[str], batch_size: int) -> Iterator[Embeddings]:
        for start in range(0, len(texts), batch_size):
            ids = self.backbone.tokenize(texts[start : start + batch_size])
            yield self.backbone.encode_texts(ids.to(self.device))

    def _told(self, said: Embeddings, output_value: str | None) -> Any:
        tokens = said.tokens
        if tokens is None:
            raise InputError(f"the towers of {self.name} give no tokens; ask for the vectors")
        tokens = tokens[0] if said.mask is None else tokens[0][said.mask[0]]
        if output_value == "token_embeddings":
            return tokens
        return {"sentence_embedding": said.pooled[0], "token_embeddings": tokens}


def _alone(batches: Iterator[Embeddings]) -> Iterator[Embeddings]:
    return (batch.take([place]) for batch in batches for place in range(len(batch)))
