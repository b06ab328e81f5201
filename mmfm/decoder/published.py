"""Decoders that others published for CLIP embeddings, as the decoder of a model of ours.

Stable unCLIP (with a prior of its own, or its image-to-image form without) and Kandinsky 2.2 (the
decoder and its prior) draw from a CLIP vector. They run here by diffusers' own pipelines; ours is
what stands between: which vector they are given, and which noise.

**Length.** Our pooled vectors have unit length, while these decoders were trained on vectors as the
projection leaves them. A vector is therefore stretched to the root mean square length of the
vectors that the decoder knows: sqrt(sum(mean^2 + deviation^2)) of the statistics that it carries
(Stable unCLIP's image normaliser, the `clip_mean` and `clip_std` of Kandinsky's prior). Its
direction, which holds the meaning, is kept.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.errors import ModelError

Progress = Callable[[int], None]
PROBES = ("a photo of a cat", "three red boats on the sea", "a drawing of an old castle")


class PublishedDecoder(nn.Module, ABC):
    """A decoder that is a pipeline: `draw` pictures of texts, `decode` pictures of vectors.

    pooled_width: length D of the vectors it reads. generation: its own steps and guidance, as
    `ModelConfig.generation`. batch_size: pictures drawn at once. Its modules are sub-modules, so
    that it moves with the model; it is frozen.
    """

    def __init__(self, pipeline: Any, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.batch_size = 4
        self.pooled_width = mean.numel()
        length = (mean.detach().float().square() + deviation.detach().float().square()).sum() ** 0.5
        if not (torch.isfinite(length) and length > 0):
            raise ModelError(
                f"{type(pipeline).__name__} does not say how long its vectors are (the statistics "
                "of its normaliser or prior are empty); get the whole of what was published"
            )
        self.length = float(length)
        defaults = inspect.signature(type(pipeline).__call__).parameters
        self.generation = {
            "num_steps": defaults["num_inference_steps"].default,
            "guidance_scale": float(defaults["guidance_scale"].default),
        }
        self._own(pipeline)

    def _own(self, pipeline: Any) -> None:
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                self.add_module(f"{name}_of_{len(self._modules)}", part.requires_grad_(False))
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], *, num_steps: int,
        guidance_scale: float, negative_prompt: str | None = None,
        progress: Progress | None = None,
    ) -> Tensor:  # fmt: skip
        """Pictures (B, 3, H, W) in [-1, 1] of the prompts, each from its own seed alone.

        `progress` is told the number of steps done of those that draw.
        """
        made = []
        for texts, some in self._parts(list(prompts), list(seeds)):
            settings = self._settings(num_steps, guidance_scale, progress)
            made.append(self._draw(texts, some, negative_prompt, settings))
        return torch.cat(made).clamp(-1, 1)

    @torch.no_grad()
    def decode(
        self, pooled: Tensor, seeds: Sequence[int], *, num_steps: int, guidance_scale: float,
        progress: Progress | None = None,
    ) -> Tensor:  # fmt: skip
        """Pictures (B, 3, H, W) in [-1, 1] of vectors (B, D) of unit length, as `draw`."""
        if pooled.dim() != 2 or pooled.shape[1] != self.pooled_width:
            raise ModelError(
                f"got vectors of shape {tuple(pooled.shape)}, wanted (B, {self.pooled_width})"
            )
        made = []
        for vectors, some in self._parts(pooled * self.length, list(seeds)):
            settings = self._settings(num_steps, guidance_scale, progress)
            made.append(self._decode(vectors, some, settings))
        return torch.cat(made).clamp(-1, 1)

    @abstractmethod
    def own_vectors(self) -> tuple[list[Any], Tensor]:
        """Texts (or pictures) and the vectors (n, D) that the pipeline's own tower gives them."""

    @abstractmethod
    def _draw(
        self, texts: list[str], seeds: list[int], negative: str | None, settings: dict
    ) -> Tensor: ...

    @abstractmethod
    def _decode(self, vectors: Tensor, seeds: list[int], settings: dict) -> Tensor: ...

    def _settings(self, num_steps: int, guidance_scale: float, progress: Progress | None) -> dict:
        """Of one call of the pipeline."""

        def told(step: int, time: Any, latents: Tensor) -> None:
            if progress is not None and latents.dim() == 4:  # a prior's steps are not counted
                progress(step + 1)

        return {
            "num_inference_steps": num_steps, "guidance_scale": guidance_scale,
            "output_type": "pt", "return_dict": False, "callback": told, "callback_steps": 1,
        }  # fmt: skip

    def _parts(self, things: Any, seeds: list[int]) -> list[tuple[Any, list[int]]]:
        if len(things) != len(seeds):
            raise ModelError(f"got {len(things)} rows and {len(seeds)} seeds, wanted as many")
        starts = range(0, len(seeds), self.batch_size)
        return [(things[i : i + self.batch_size], seeds[i : i + self.batch_size]) for i in starts]

    @property
    def _like(self) -> dict:
        """Device and precision of what is fed to the pipeline."""
        weight = next(self.pipeline.unet.parameters())
        return {"device": weight.device, "dtype": weight.dtype}


class StableUnclip(PublishedDecoder):
    """Stable unCLIP. Texts go through its prior where it has one, else through its text encoder
    alone, with the image port at zero; vectors go to the image port, beside an empty text.
    """

    def __init__(self, pipeline: Any) -> None:
        normaliser = pipeline.image_normalizer
        super().__init__(pipeline, normaliser.mean, normaliser.std)
        self.has_prior = hasattr(pipeline, "prior")
        self._known = _Known(self.pooled_width)
        self._decoding = pipeline
        if self.has_prior:  # its call takes no vectors: a prior that knows the answer gives them
            self._decoding = type(pipeline)(**{**pipeline.components, "prior": self._known})
            self._decoding.set_progress_bar_config(disable=True)

    def own_vectors(self) -> tuple[list[Any], Tensor]:
        pipe = self.pipeline
        if self.has_prior:
            return list(PROBES), _text_vectors(pipe.prior_tokenizer, pipe.prior_text_encoder)
        pictures = _probe_pictures()
        weight = next(pipe.image_encoder.parameters())
        pixels = pipe.feature_extractor(images=pictures, return_tensors="pt").pixel_values
        with torch.no_grad():
            return pictures, pipe.image_encoder(pixels.to(weight)).image_embeds

    def _draw(
        self, texts: list[str], seeds: list[int], negative: str | None, settings: dict
    ) -> Tensor:
        if not self.has_prior:
            nothing = torch.zeros(len(texts), self.pooled_width, **self._like)
            settings = {**settings, "image_embeds": nothing}
        against = None if negative is None else [negative] * len(texts)
        made = self.pipeline(
            prompt=texts, negative_prompt=against, generator=_generators(seeds), **settings
        )
        return made[0].float() * 2 - 1

    def _decode(self, vectors: Tensor, seeds: list[int], settings: dict) -> Tensor:
        vectors = vectors.to(**self._like)
        if self.has_prior:
            self._known.vectors = vectors
            settings = {**settings, "prior_num_inference_steps": 2, "prior_guidance_scale": 1.0}
        else:
            settings = {**settings, "image_embeds": vectors}
        made = self._decoding(prompt=[""] * len(seeds), generator=_generators(seeds), **settings)
        return made[0].float() * 2 - 1


class Kandinsky(PublishedDecoder):
    """Kandinsky 2.2: texts go through its prior, vectors straight to the decoder. Guidance moves
    away from the vector of a black picture, as in the prior's pipeline, or of a negative prompt.
    """

    def __init__(self, pipeline: Any, prior: Any) -> None:
        super().__init__(pipeline, prior.prior.clip_mean, prior.prior.clip_std)
        self.prior = prior
        self._own(prior)
        reads = pipeline.unet.config.encoder_hid_dim
        if reads != self.pooled_width:
            raise ModelError(
                f"the decoder reads vectors of {reads} numbers, its prior gives "
                f"{self.pooled_width}; give the prior that was published with it"
            )

    def own_vectors(self) -> tuple[list[Any], Tensor]:
        return list(PROBES), _text_vectors(self.prior.tokenizer, self.prior.text_encoder)

    def _draw(
        self, texts: list[str], seeds: list[int], negative: str | None, settings: dict
    ) -> Tensor:
        vectors, against = self.prior(texts, generator=_generators(seeds), return_dict=False)
        if negative is not None:
            against = self.prior(
                [negative] * len(texts), generator=_generators(seeds), return_dict=False
            )[0]
        return self._paint(vectors, against, seeds, settings)

    def _decode(self, vectors: Tensor, seeds: list[int], settings: dict) -> Tensor:
        against = self.prior.get_zero_embed(len(seeds), device=self._like["device"])
        return self._paint(vectors, against, seeds, settings)

    def _paint(self, vectors: Tensor, against: Tensor, seeds: list[int], settings: dict) -> Tensor:
        told = settings.pop("callback")
        settings.pop("callback_steps")

        def at_step_end(pipe: Any, step: int, time: Any, tensors: dict) -> dict:
            told(step, time, tensors["latents"])
            return tensors

        size = self.pipeline.unet.config.sample_size * self.pipeline.movq_scale_factor
        return self.pipeline(
            image_embeds=vectors.to(**self._like), negative_image_embeds=against.to(**self._like),
            height=size, width=size, generator=_generators(seeds),
            callback_on_step_end=at_step_end, **settings,
        )[0].float()  # fmt: skip


class _Known:
    """A prior that answers with vectors given beforehand, whatever the text."""

    def __init__(self, width: int) -> None:
        self.config = SimpleNamespace(embedding_dim=width)
        self.vectors = torch.empty(0, width)

    def __call__(self, latents: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(predicted_image_embedding=latents)

    def post_process_latents(self, latents: Tensor) -> Tensor:
        return self.vectors


def load_published(source: Any, prior: Any = None) -> PublishedDecoder:
    """A published decoder: a folder that `save_pretrained` wrote, a name on the hub, or a pipeline.

    Known are StableUnCLIPPipeline, StableUnCLIPImg2ImgPipeline, KandinskyV22CombinedPipeline, and
    KandinskyV22Pipeline with `prior`, a KandinskyV22PriorPipeline in any of these forms. Only
    safetensors are read, and no code of the folder is run. Raises ModelError on anything else.
    """
    pipeline = _pipeline(source, _DECODERS)
    name = type(pipeline).__name__
    if name == "KandinskyV22CombinedPipeline":
        return Kandinsky(pipeline.decoder_pipe, pipeline.prior_pipe)
    if name == "KandinskyV22Pipeline":
        if prior is None:
            raise ModelError(
                "Kandinsky's decoder is used with its prior, which knows how long vectors are: "
                "give prior='kandinsky-community/kandinsky-2-2-prior' or its folder"
            )
        return Kandinsky(pipeline, _pipeline(prior, ("KandinskyV22PriorPipeline",)))
    if prior is not None:
        raise ModelError(f"{name} brings what it needs; leave prior out")
    return StableUnclip(pipeline)


_DECODERS = (
    "StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline", "KandinskyV22Pipeline",
    "KandinskyV22CombinedPipeline",
)  # fmt: skip


def _pipeline(source: Any, known: tuple[str, ...]) -> Any:
    if find_spec("transformers") is None:
        raise ModelError("published decoders need transformers: pip install 'mmfm[unclip]'")
    from diffusers import DiffusionPipeline

    if isinstance(source, DiffusionPipeline):
        name = type(source).__name__
    else:
        try:
            name = DiffusionPipeline.load_config(str(source)).get("_class_name")
        except (OSError, ValueError) as error:
            raise ModelError(_unreadable(source, error)) from error
    if name not in known:
        raise ModelError(f"got a pipeline of the class {name}, wanted {' or '.join(known)}")
    if isinstance(source, DiffusionPipeline):
        return source
    try:
        return DiffusionPipeline.from_pretrained(
            str(source), use_safetensors=True, low_cpu_mem_usage=find_spec("accelerate") is not None
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise ModelError(_unreadable(source, error)) from error


def _unreadable(source: str | Path, error: Exception) -> str:
    return (
        f"{source} cannot be read as a pipeline of diffusers "
        f"({str(error).strip().splitlines()[0]}); wanted a folder or hub name with model_index.json"
    )


def _generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def _text_vectors(tokenizer: Any, encoder: Any) -> Tensor:
    ids = tokenizer(
        list(PROBES), padding="max_length", max_length=tokenizer.model_max_length,
        truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
    return encoder(ids.to(next(encoder.parameters()).device)).text_embeds


def _probe_pictures() -> list[Image.Image]:
    """Three smooth pictures that look unlike each other."""
    ramp = np.linspace(0, 255, 224, dtype=np.uint8)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    bands = [(rows, columns, 255 - rows), (255 - columns, rows, rows), (columns, columns, rows)]
    return [Image.fromarray(np.stack(band, axis=-1)) for band in bands]
