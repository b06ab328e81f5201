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
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from mmfm import bundle
from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.captions import Captions
from mmfm.classify.head import Classifier, LinearHead
from mmfm.classify.zero_shot import Labels, zero_shot_head
from mmfm.config import ModelConfig
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.sampler import picture_seed
from mmfm.device import pick_device
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.embedder import BATCH_SIZE, Embedder
from mmfm.encoders.precision import chosen
from mmfm.errors import InputError, ModelError, TextError
from mmfm.preprocess.images import to_pil
from mmfm.preprocess.text import check_texts, truncate_check
from mmfm.preprocess.transform import Preprocess
from mmfm.sentence import SentenceEncoder
from mmfm.shapes import Embeddings


class MMFM(SentenceEncoder, Captions):
    """One backbone and its heads; a head that a model does not have is None.

    `encode` and what else is known from sentence-transformers comes from SentenceEncoder, `caption`
    and `caption_score` from Captions.
    """

    def __init__(
        self, config: ModelConfig, backbone: Backbone, *, captioner: Captioner | None = None,
        vocabulary: Vocabulary | None = None, pixel_decoder: PixelDecoder | None = None,
        decoder: ImageDecoder | None = None, metrics: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.backbone = backbone
        self.captioner = captioner
        self.vocabulary = vocabulary
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.metrics = metrics or {}
        self.preprocess = Preprocess.from_open_clip(config.backbone.preprocess_cfg)
        self.device = pick_device(device)
        for part in self.parts.values():
            part.to(self.device).eval()

    # ------------------------------------------------------------------ making and keeping

    @classmethod
    def from_config(
        cls, config: ModelConfig, *, seed: int = 0, texts: Sequence[str] = (),
        device: str | None = None,
    ) -> MMFM:  # fmt: skip
        """A model with fresh random weights; `texts` decide the caption head's vocabulary."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone.from_config(config.backbone)
            vocabulary = None
            if config.captioner is not None:
                vocabulary = Vocabulary.build(texts, backbone.tokenizer)
                captioner = replace(config.captioner, vocab_size=len(vocabulary))
                config = replace(config, captioner=captioner)
            return cls(config, backbone, vocabulary=vocabulary, device=device, **_heads(config))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> MMFM:
        """Read a bundle written by `save_pretrained`. Raises ModelError when it is not whole."""
        found = bundle.read(Path(folder))
        backbone = Backbone.from_config(found.config.backbone)
        backbone.load(found.folder)
        heads = _heads(found.config)
        for name, head in heads.items():
            found.fill(name, head)
        tokens = found.vocabulary
        vocabulary = None if tokens is None else Vocabulary.from_list(tokens, backbone.tokenizer)
        return cls(found.config, backbone, vocabulary=vocabulary, metrics=found.metrics,
                   device=device, **heads)  # fmt: skip

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write a bundle; open_clip loads its backbone with `local-dir:FOLDER`.

        dtype: of the weights on disk; torch.float16 halves them. Loading always gives float32.
        """
        heads = {}
        for name, part in self.parts.items():
            if name != "backbone":
                for key, value in part.state_dict().items():
                    heads[f"{name}.{key}"] = value.detach().to("cpu", dtype).contiguous()
        tokens = None if self.vocabulary is None else self.vocabulary.to_list()
        bundle.write(Path(folder), self.config, heads, tokens, self.metrics,
                     lambda path: self.backbone.save(path, dtype))  # fmt: skip
        return Path(folder)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules that this model has, by name."""
        names = ("backbone", "captioner", "pixel_decoder", "decoder")
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

    @cached_property
    def backbone_hash(self) -> str:
        """Changes when any embedding could: sha256 over weights, shapes and preprocessing."""
        return self.backbone.hash()

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
            "device": str(self.device),
            "precision": chosen(self.backbone),
            **self.metrics,
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

    # ------------------------------------------------------------------ pictures

    @torch.inference_mode()
    def generate(
        self, prompt: str | Sequence[str], *, negative_prompt: str | None = None,
        num_images: int = 1, num_steps: int | None = None, guidance_scale: float | None = None,
        seed: int | None = None, rerank: int = 1, output: str = "pil", progress: bool = False,
    ) -> Any:  # fmt: skip
        """Draw `num_images` pictures for each prompt; all of the first prompt come first.

        Image i of a seed is the same, up to rounding, in any batch; without a seed one is
        drawn. guidance_scale: 1 = none; negative_prompt: what to move away from. rerank: draw this
        many for each picture and keep the one whose embedding is nearest to the prompt's.
        output: "pil", "np" (N, H, W, 3) uint8, or "pt" (N, 3, H, W) in [-1, 1].
        """
        decoder = self._need("decoder", "generates")
        prompts = self._checked(prompt, "warn")
        if output not in ("pil", "np", "pt"):
            raise InputError(f"output is {output!r}, wanted pil, np or pt")
        defaults = self.config.generation
        num_steps = defaults.get("num_steps", 25) if num_steps is None else num_steps
        if guidance_scale is None:
            guidance_scale = defaults.get("guidance_scale", 1.0)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        for name, value, least in (("num_images", num_images, 1), ("num_steps", num_steps, 1),
                                   ("rerank", rerank, 1), ("seed", seed, 0)):  # fmt: skip
            if not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} is {value}, wanted a whole number, at least {least}")
        said, negative = self._read(prompts), None
        if negative_prompt is not None:
            if not isinstance(negative_prompt, str):
                raise TextError(f"negative_prompt is {negative_prompt!r}, wanted one text for all")
            negative = self._read(self._checked(negative_prompt, "warn"))
        draws = [
            (p, picture_seed(seed, i, k))
            for p in range(len(prompts)) for i in range(num_images) for k in range(rerank)
        ]  # fmt: skip
        bar = tqdm(total=len(draws) * num_steps, disable=not progress, desc="drawing", leave=False)
        made = []
        with bar:
            for start in range(0, len(draws), BATCH_SIZE):
                rows, seeds = zip(*draws[start : start + BATCH_SIZE])
                made.append(decoder.sample(
                    said.take(list(rows)), list(seeds), num_steps=num_steps,
                    guidance_scale=guidance_scale,
                    negative=None if negative is None else negative.take([0] * len(rows)),
                    progress=lambda _: bar.update(len(rows)),  # noqa: B023  called in this turn
                ))  # fmt: skip
        images = torch.cat(made).clamp(-1, 1)
        if rerank > 1:
            images = self._best(images, said, rerank)
        if output == "pt":
            return images.cpu()
        pictures = to_pil(images)
        return pictures if output == "pil" else np.stack([np.asarray(p) for p in pictures])

    @torch.inference_mode()
    def reconstruct(self, images: Any, *, batch_size: int | None = None) -> list[Image.Image]:
        """Each picture as the pixel decoder sees it in its grid of image tokens."""
        decode = self._need("pixel_decoder", "reconstructs")
        batches = self.embedder.see(images, batch_size=batch_size)
        return [picture for seen in batches for picture in to_pil(decode(seen.tokens))]

    # ------------------------------------------------------------------ inside

    def _read(self, texts: list[str]) -> Embeddings:
        return self.backbone.encode_texts(self.backbone.tokenize(texts).to(self.device))

    def _best(self, images: Tensor, said: Embeddings, rerank: int) -> Tensor:
        pictures = to_pil(images)
        fits = torch.from_numpy(self.embed_images(pictures)).unflatten(0, (len(said), -1, rerank))
        best = torch.einsum("pikd,pd->pik", fits, said.pooled.cpu()).argmax(dim=2).flatten()
        return images.unflatten(0, (-1, rerank))[torch.arange(len(best)), best.to(images.device)]

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


def _heads(config: ModelConfig) -> dict[str, nn.Module]:
    heads: dict[str, nn.Module] = {}
    if config.captioner is not None:
        heads["captioner"] = Captioner(config.captioner)
    if config.pixel_decoder is not None:
        heads["pixel_decoder"] = PixelDecoder(config.pixel_decoder)
    if config.decoder is not None:
        heads["decoder"] = ImageDecoder(config.decoder, heads.get("pixel_decoder"))
    return heads
