"""MMFM: the public object, and the only place where the backbone meets the heads.

Sources in, numpy or pictures out. Every method takes what a user has (paths, pictures, folders,
strings), checks it, turns it into one `Embeddings`, and hands that to a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmfm import bundle, heads
from mmfm.adapters import Adapters
from mmfm.captioner.guesses import Guesses
from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.captions import Captions
from mmfm.classify.head import Classifier, LinearHead
from mmfm.classify.zero_shot import Labels, zero_shot_head
from mmfm.config import ModelConfig
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.published import PublishedDecoder
from mmfm.device import pick_device
from mmfm.drawing import Drawing
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.embedder import Embedder
from mmfm.encoders.precision import chosen
from mmfm.errors import InputError, ModelError
from mmfm.exchange import Exchange
from mmfm.layers.plain import plain
from mmfm.preprocess.text import check_texts, truncate_check
from mmfm.preprocess.transform import Preprocess
from mmfm.sentence import SentenceEncoder
from mmfm.shapes import Embeddings


class MMFM(Adapters, Exchange, SentenceEncoder, Captions, Drawing):
    """One backbone and its heads; a head that a model does not have is None.

    `encode` and what else is known from sentence-transformers comes from SentenceEncoder, `caption`
    and `caption_score` from Captions, `generate` and every other way to a picture from Drawing,
    `load_adapter` and `set_adapter` from Adapters.
    """

    def __init__(
        self, config: ModelConfig, backbone: Backbone, *, captioner: Captioner | None = None,
        vocabulary: Vocabulary | None = None, pixel_decoder: PixelDecoder | None = None,
        decoder: ImageDecoder | None = None, metrics: dict[str, Any] | None = None,
        compute: dict[str, Any] | None = None, attribution: str = "", device: str | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.backbone = backbone
        self.captioner = captioner
        self.vocabulary = vocabulary
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.metrics = metrics or {}  # what was measured: metrics.json
        self.compute = compute or {}  # what it costs: compute.json, of mmfm.training.compute
        self.attribution = attribution  # whose pictures it learned from: ATTRIBUTION.md
        self.preprocess = Preprocess.from_open_clip(config.backbone.preprocess_cfg)
        self.device = pick_device(device)
        for part in self.parts.values():
            part.to(self.device).eval()

    # ------------------------------------------------------------------ making and keeping

    @classmethod
    def from_config(
        cls, config: ModelConfig, *, seed: int = 0, texts: Sequence[str] = (),
        autoencoder: nn.Module | None = None, device: str | None = None,
    ) -> MMFM:  # fmt: skip
        """A model with fresh random weights; `texts` decide the caption head's vocabulary.

        autoencoder: of diffusers, for a decoder in vae space; it is taken as it is.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone.from_config(config.backbone)
            vocabulary = None
            if config.captioner is not None:
                vocabulary = Vocabulary.build(texts, backbone.tokenizer)
                captioner = replace(config.captioner, vocab_size=len(vocabulary))
                config = replace(config, captioner=captioner)
            parts = heads.build(config, autoencoder)
            return cls(config, backbone, vocabulary=vocabulary, device=device, **parts)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> MMFM:
        """Read a bundle written by `save_pretrained`. Raises ModelError when it is not whole."""
        found = bundle.read(Path(folder))
        backbone = Backbone.from_config(found.config.backbone)
        backbone.load(found.folder)
        tokens = found.vocabulary
        vocabulary = None if tokens is None else Vocabulary.from_list(tokens, backbone.tokenizer)
        if vocabulary is not None and found.guesses is not None:
            vocabulary.guesses = Guesses(found.guesses)
        return cls(found.config, backbone, vocabulary=vocabulary, metrics=found.metrics,
                   compute=found.compute, attribution=found.attribution,
                   device=device, **heads.read(found))  # fmt: skip

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write a bundle with its model card; open_clip loads its backbone, `local-dir:FOLDER`.

        dtype: of the weights on disk; torch.float16 halves them. Loading always gives float32. An
        autoencoder is written in the precision that it has.
        """
        if isinstance(self.decoder, PublishedDecoder):
            raise ModelError(
                "a published decoder is not copied into a bundle; save the model without it, and "
                "give it again: mmfm.load(FOLDER, decoder=...)"
            )
        weights = {}
        for name, part in self.parts.items():
            if name not in ("backbone", "autoencoder"):
                for key, value in plain(part).state_dict().items():
                    weights[f"{name}.{key}"] = value.detach().to("cpu", dtype).contiguous()
        tokens = None if self.vocabulary is None else self.vocabulary.to_list()
        guesses = None if self.vocabulary is None else self.vocabulary.guesses

        def save_parts(path: Path) -> None:
            self.backbone.save(path, dtype)
            if self.autoencoder is not None:
                self.autoencoder.save_pretrained(path / bundle.VAE)

        bundle.write(Path(folder), self.config, weights, tokens,
                     None if guesses is None else guesses.to_list(), self.metrics, self.compute,
                     self.attribution, save_parts)  # fmt: skip
        return Path(folder)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that this model has, by name."""
        names = ("backbone", "captioner", "pixel_decoder", "decoder", "autoencoder")
        found = {name: getattr(self, name) for name in names}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, of what the image tower reads and the decoder draws."""
        return self.config.backbone.image_size

    @property
    def embed_dim(self) -> int:
        """Length of the retrieval vector (D)."""
        return self.config.backbone.embed_dim

    def info(self) -> dict[str, Any]:
        """What this model is and what was measured of it, as plain JSON types."""
        config = self.config
        parameters = {k: sum(p.numel() for p in v.parameters()) for k, v in self.parts.items()}
        return {
            "name": self.name,
            "skills": [s for s, has in (("search", True), ("caption", self.can_caption),
                                        ("generate", self.decoder is not None)) if has],
            "image_size": self.image_size,
            "embed_dim": self.embed_dim,
            "context_length": config.backbone.context_length,
            "contrastive_loss": config.backbone.loss,
            "space": None if config.decoder is None else config.decoder.space,
            "parameters": {**parameters, "total": sum(parameters.values())},
            "backbone_hash": self.backbone_hash,
            "adapter": self.active_adapter,
            "device": str(self.device),
            "precision": chosen(self.backbone),
            **self.metrics,
            "compute": self.compute or None,
        }  # fmt: skip

    # ------------------------------------------------------------------ embedding and retrieval

    @cached_property
    def embedder(self) -> Embedder:
        """What turns pictures and texts into vectors."""
        return Embedder(self.backbone, self.preprocess, self.device)

    def embed_images(
        self, images: Any, *, batch_size: int | None = None, precision: str = "auto",
        decode: str = "exact", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, D) float32, unit length, of a picture, a path, bytes, an array, a list, a folder.

        precision: "fp32", "bf16", "int8", "onnx", or "auto", the fastest that keeps the vectors
        (`encoders.precision`). decode: "exact" gives open_clip's own pixels; "fast" decodes large
        JPEGs at a smaller scale, for about a third of the time. Raises ImageError naming the first
        picture that cannot be read.
        """
        return self.embedder.images(
            images, batch_size=batch_size, precision=precision, decode=decode, progress=progress
        )

    def embed_texts(
        self, texts: str | Sequence[str], *, batch_size: int | None = None,
        precision: str = "auto", truncate: str = "warn", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, D) float32, unit length. Too long a text is cut with a warning that shows the part.

        truncate: "warn", or "error" to refuse. An empty text has a vector too.
        """
        return self.embedder.texts(
            texts, batch_size=batch_size, precision=precision, truncate=truncate, progress=progress
        )

    def classify(
        self, images: Any, labels: Labels | Classifier, templates: Any = None, *,
        batch_size: int | None = None, precision: str = "auto", progress: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """(N, L) probabilities: over the labels (softmax) or each alone (sigmoid backbones).

        labels: names; or each with the words it goes by ({"dog": ["dog", "puppy"]}); or a
        classifier made before (zero_shot_head, a probe, KNN). templates: texts with one {}, a set
        by name ("photo", "imagenet", ...) or a file, averaged; default the words alone.
        Raises TextError on labels or templates, InputError on a classifier of another model.
        """
        if callable(labels):
            if templates is not None:
                raise InputError("templates make a classifier of words; this one is made already")
            head: Classifier = labels
            if head.space not in ("", self.backbone_hash):
                raise InputError(f"the classifier was not made with {self.name}; make it again")
        else:
            head = self._words_head(labels, templates)
        how: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
        return head(self.embed_images(images, progress=progress, **how))

    def zero_shot_head(self, labels: Labels, templates: Any = None) -> LinearHead:
        """A classifier of words, to be kept: `head(vectors)` needs no pixels, and equals `classify`
        of the pictures that the vectors are of. Arguments and errors as there.
        """
        return replace(self._words_head(labels, templates), space=self.backbone_hash)

    def _words_head(self, labels: Labels, templates: Any) -> LinearHead:
        bias = self.backbone.logit_bias
        return zero_shot_head(
            self.embed_texts, labels, templates, scale=self.backbone.logit_scale.item(),
            bias=0.0 if bias is None else bias.item(), loss=self.config.backbone.loss,
        )  # fmt: skip

    # ------------------------------------------------------------------ inside

    def _read(self, texts: list[str]) -> Embeddings:
        return self.backbone.encode_texts(self.backbone.tokenize(texts).to(self.device))

    def _checked(self, texts: str | Sequence[str], truncate: str) -> list[str]:
        checked = check_texts(texts)
        if hasattr(self.backbone.tokenizer, "decode"):
            length = self.config.backbone.context_length
            truncate_check(self.backbone.tokenizer, checked, length, truncate)
        return checked

    def _need(self, part: str, skill: str) -> Any:
        if getattr(self, part) is None:
            raise ModelError(f"{self.name} has no {part}, the part that {skill}; load 'mini'")
        return getattr(self, part)
