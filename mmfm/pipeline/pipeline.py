"""MMFMPipeline: from prompts and image vectors to pictures, in the call of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    ModelMixin,
    SchedulerMixin,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import ModelConfig, to_dict
from mmfm.decoder.flow import velocity
from mmfm.decoder.guidance import Part, guided
from mmfm.decoder.network import Condition
from mmfm.decoder.sampler import picture_seed
from mmfm.decoder.vae import decode_latents
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError, TextError
from mmfm.pipeline.models import BackboneModel, FlowModel, SpaceModel
from mmfm.preprocess.images import to_pil
from mmfm.shapes import Embeddings

LOADER = '''"""Lets diffusers load this folder; the classes are those of the mmfm package."""

from mmfm.pipeline import MMFMPipeline  # noqa: F401
'''
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class MMFMPipeline(DiffusionPipeline):
    """Text to image, image vectors to image, or both, in the call that diffusers' users know."""

    model_cpu_offload_seq = "backbone->unet->space->vae"
    _optional_components = ["vae"]  # noqa: RUF012
    # why: open_clip's towers use parameters outside of the modules that hold them
    _exclude_from_cpu_offload = ["backbone"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self, backbone: BackboneModel, unet: FlowModel, space: SpaceModel,
        scheduler: SchedulerMixin, vae: ModelMixin | None = None, num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_modules(
            backbone=backbone, unet=unet, space=space, scheduler=scheduler, vae=vae
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, 0, False

    @classmethod
    def of(
        cls, config: ModelConfig, backbone: Backbone, decoder: Any, vae: nn.Module | None
    ) -> MMFMPipeline:
        """The parts of a model as a pipeline: they are shared, nothing is copied.

        decoder: an ImageDecoder, in whose space `vae` is what diffusers has for it.
        """
        told = to_dict(config.decoder)
        grid = decoder.config.space == "grid"
        return cls(
            BackboneModel(**to_dict(config.backbone), backbone=backbone),
            FlowModel(told, network=decoder.network),
            SpaceModel(
                told, to_dict(config.pixel_decoder) if grid else None, space=decoder.space,
                pixels=decoder.space.pixel_decoder if grid else None,
            ),
            FlowMatchEulerDiscreteScheduler(shift=decoder.config.shift),
            vae,
            num_inference_steps=config.generation.get("num_steps", 25),
            guidance_scale=config.generation.get("guidance_scale", 1.0),
        )  # fmt: skip

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As every pipeline of diffusers, and beside it what lets diffusers load it alone."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / "pipeline.py").write_text(LOADER)
        super().save_pretrained(save_directory, *args, **kwargs)

    @staticmethod
    def generators(seed: int, num_images: int = 1, num_prompts: int = 1) -> list[torch.Generator]:
        """What `MMFM.generate(seed=seed, num_images=num_images)` draws its noise from.

        As `generator` of a call with `num_images_per_prompt=num_images` they give its pictures, in
        single precision (`precision="fp32"`).
        """
        seeds = [picture_seed(seed, i) for i in range(num_images)] * num_prompts
        return [torch.Generator().manual_seed(s) for s in seeds]

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to end the loop."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        image_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw `num_images_per_prompt` pictures for each prompt, image vector, or pair of them.

        prompt, negative_prompt: a text, or one for each. image_embeds: (B, D) vectors of pictures
        (`MMFM.embed_images`), or (1, D) for all prompts; any length, they are normalised. Steps and
        guidance are the model's own where none are given; guidance_scale 1 is none.
        generator: one for all noise, or one for each picture (`generators`, which gives the
        pictures of `MMFM.generate`). latents: the noise itself, (B, C, h, w).
        output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W) in [0, 1], "latent": the map.
        callback_on_step_end(pipe, step, timestep, {"latents": ...}) may return new latents, set
        `pipe._guidance_scale`, or end the loop by `pipe._interrupt = True`.

        Raises InputError on what cannot be drawn, a size that the model does not draw among it.
        """
        self._check(height, width, output_type, callback_on_step_end_tensor_inputs)
        steps = (
            self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        )
        self._guidance_scale = (
            self.config.guidance_scale if guidance_scale is None else guidance_scale
        )
        self._interrupt = False
        device = self._execution_device
        told, without = self._conditions(
            prompt, image_embeds, negative_prompt, num_images_per_prompt, device
        )
        shape = (len(told.vector), *self._map_shape)
        if latents is None:
            _expect_generators(generator, len(told.vector))
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) != shape:
            raise InputError(f"got latents of shape {tuple(latents.shape)}, wanted {shape}")
        x = latents.to(device, torch.float32)
        x = self._follow(x, told, without, steps, generator, callback_on_step_end)
        made = self._finish(x, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=made) if return_dict else (made,)

    def _follow(
        self, x: Tensor, told: Condition, without: Condition, num_steps: int, generator: Any,
        callback: Callable[..., dict] | None,
    ) -> Tensor:  # fmt: skip
        """From noise to a clean map, along the scheduler's times."""
        timesteps, sigmas = self._times(num_steps)
        self._num_timesteps = len(timesteps)
        named = inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if "generator" in named else {}
        scale = self._guidance_scale
        predict = self._guided(told, without)
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, (timestep, sigma) in enumerate(zip(timesteps, sigmas)):
                if self._interrupt:
                    break
                if self._guidance_scale != scale:  # a callback may change it
                    scale = self._guidance_scale
                    predict = self._guided(told, without)
                t = torch.full((len(x),), 1.0 - float(sigma), device=x.device)
                # diffusers counts from data to noise: its velocity is the negative of ours
                step = -velocity(predict(x, t), x, t, min_sigma=0.0)
                x = self.scheduler.step(step, timestep, x, return_dict=False, **extra)[0]
                if callback is not None:
                    x = (callback(self, i, timestep, {"latents": x}) or {}).pop("latents", x)
                bar.update()
        return x

    def _guided(self, told: Condition, without: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        scale = float(self._guidance_scale)
        return guided(self.unet, [Part(told, scale, 1.0), Part(without, 1.0 - scale, 0.0)])

    def _times(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """The scheduler's timesteps and the noise levels they stand for."""
        scheduler, told = self.scheduler, self.scheduler.config
        flow = type(scheduler).__name__.startswith("FlowMatch") or (
            told.get("use_flow_sigmas") and told.get("prediction_type") == "flow_prediction"
        )
        if not flow:
            raise InputError(
                f"{type(scheduler).__name__} does not follow a flow; use a FlowMatch scheduler, or "
                'one made with use_flow_sigmas=True, prediction_type="flow_prediction" and '
                f"flow_shift={self.unet.network.config.shift}"
            )
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise InputError(f"num_inference_steps is {num_steps!r}, wanted a whole number above 0")
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):  # the steps of MMFM.generate
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps))
        else:
            scheduler.set_timesteps(num_steps)
        return scheduler.timesteps, scheduler.sigmas[: len(scheduler.timesteps)]

    def _conditions(
        self, prompt: Any, image_embeds: Tensor | None, negative_prompt: Any, copies: int,
        device: torch.device,
    ) -> tuple[Condition, Condition]:  # fmt: skip
        """What the network is told, and what guidance moves away from; a row for each picture."""
        said = self._said(prompt, image_embeds, device)
        rows = [row for row in range(len(said)) for _ in range(copies)]
        vectors = image_embeds is not None
        ports = torch.full((len(rows),), vectors, device=device)
        told = self.unet.condition(said.take(rows), None, ports)
        closed = torch.zeros_like(ports)
        if negative_prompt is None:
            empty = Embeddings(torch.zeros_like(said.pooled)).take(rows)
            return told, self.unet.condition(empty, None, closed)
        against = self.backbone(negative_prompt)
        if len(against) not in (1, len(said)):
            raise TextError(
                f"got {len(against)} negative prompts for {len(said)} prompts; give one, or as many"
            )
        rows = rows if len(against) > 1 else [0] * len(rows)
        return told, self.unet.condition(against.take(rows), None, closed)

    def _said(self, prompt: Any, image_embeds: Tensor | None, device: torch.device) -> Embeddings:
        if prompt is None and image_embeds is None:
            raise InputError("give a prompt, image_embeds, or both")
        if image_embeds is None:
            return self.backbone(prompt)
        width = self.unet.network.config.pooled_width
        vectors = torch.as_tensor(image_embeds).to(device, torch.float32)
        if vectors.dim() != 2 or vectors.shape[1] != width:
            raise InputError(
                f"got image_embeds of shape {tuple(vectors.shape)}, wanted (B, {width})"
            )
        vectors = F.normalize(vectors, dim=1)
        if prompt is None:
            return Embeddings(vectors)
        said = self.backbone(prompt)
        if len(vectors) not in (1, len(said)):
            raise InputError(
                f"got {len(vectors)} image_embeds for {len(said)} prompts; give one, or as many"
            )
        return Embeddings(vectors.expand(len(said), -1), said.tokens, said.mask)

    @property
    def _map_shape(self) -> tuple[int, int, int]:
        told = self.unet.network.config
        return told.channels, told.map_size, told.map_size

    def _finish(self, x: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return x
        images = self.space(x)
        if self.vae is not None:
            images = decode_latents(self.vae, images)
        if output_type == "pil":
            return to_pil(images)
        images = (images.clamp(-1, 1) + 1) / 2
        return images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()

    def _check(
        self, height: int | None, width: int | None, output_type: str, wanted: Sequence[str]
    ) -> None:
        size = self.backbone.backbone.config.image_size
        for name, value in (("height", height), ("width", width)):
            if value not in (None, size):
                raise InputError(f"{name} is {value}, but this model draws {size} x {size} alone")
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type is {output_type!r}, wanted {', '.join(OUTPUT_TYPES)}")
        for name in wanted:
            if name not in self._callback_tensor_inputs:
                raise InputError(f"a callback can be given latents, not {name!r}")


def _expect_generators(generator: Any, count: int) -> None:
    if isinstance(generator, (list, tuple)) and len(generator) != count:
        raise InputError(
            f"got {len(generator)} generators for {count} pictures; give one, or as many"
        )
