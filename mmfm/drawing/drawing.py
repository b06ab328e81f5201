"""Drawing: `generate` and its siblings. All ports of one network, from one set of weights.

Each call becomes a list of conditions with weights (`asks`), perhaps a map to start from, and the
settings of `Sampling`; one loop draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmfm.decoder.decoder import Start
from mmfm.decoder.sampler import SAMPLERS
from mmfm.drawing.asks import Ask, asks, away, mixture, slerp
from mmfm.drawing.canvas import read_mask, square_or_fitted, to_unit, with_margin
from mmfm.drawing.loop import Scene, draw
from mmfm.drawing.published import draw_published, is_published, refuse
from mmfm.drawing.sampling import FEW, Sampling
from mmfm.errors import InputError, TextError
from mmfm.preprocess.images import load_image, to_pil
from mmfm.shapes import Embeddings

BESIDE_TEXT = 2.0  # the picture's guidance scale beside a text, unless another is asked for


class Drawing:
    """Mixed into the model, which gives it the towers and all that is declared first."""

    if TYPE_CHECKING:
        config: Any
        decoder: Any
        preprocess: Any
        device: torch.device
        name: Any
        image_size: Any
        embed_dim: Any
        embedder: Any

        def embed_images(self, *args: Any, **kwargs: Any) -> np.ndarray: ...
        def _read(self, texts: list[str]) -> Embeddings: ...
        def _checked(self, texts: str | Sequence[str], truncate: str) -> list[str]: ...
        def _need(self, part: str, skill: str) -> Any: ...

    @torch.inference_mode()
    def generate(
        self, prompt: str | Sequence[str] | None = None, *, negative_prompt: str | None = None,
        image: Any = None, mask: Any = None, strength: float | None = None, num_images: int = 1,
        num_steps: int | None = None, guidance_scale: float | None = None,
        image_guidance_scale: float | None = None, seed: int | None = None, rerank: int = 1,
        output: str = "pil", **settings: Any,
    ) -> Any:  # fmt: skip
        """Draw `num_images` pictures for each prompt; all of the first prompt come first.

        image: what the pictures shall be like, by its vector; a variation where there is no
        prompt. With `strength` it is what they begin from instead (image to image); with `mask`
        what is kept where the mask is dark (inpainting). Such a picture is read by its vector too
        only if image_guidance_scale is given. Neither prompt nor image: anything at all.

        guidance_scale: 1 = none; negative_prompt: what to move away from. Image i of a seed is
        the same, up to rounding, in any batch. Other settings and what they mean: `Sampling`.
        Raises InputError on settings that are impossible or do not go together.
        """
        self._need("decoder", "generates")
        asked = {"num_images": num_images, "num_steps": num_steps, "seed": seed, "rerank": rerank,
                 "guidance_scale": guidance_scale, "image_guidance_scale": image_guidance_scale,
                 "strength": strength, "output": output, **settings}  # fmt: skip
        sampling = self._sampling(asked)
        if is_published(self.decoder):
            refuse(mask=mask)
            return self._published(sampling, prompt, image, negative_prompt)
        negative = self._negative(negative_prompt, sampling)
        if image is None and (mask is not None or strength is not None):
            raise InputError("strength and mask go with an image to begin from; give image=")
        text = None if prompt is None else self._read(self._checked(prompt, "warn"))
        begins = mask is not None or strength is not None
        start, pixels = self._start(image, mask, sampling) if begins else (Start(), None)
        pooled = None
        if image is not None and (not begins or image_guidance_scale is not None):
            pooled = self._vector(image)[None].expand(1 if text is None else len(text), -1)
        wanted = [F.normalize(x, dim=1) for x in (pooled, text and text.pooled) if x is not None]
        told = self._asks(text, pooled, negative, sampling)
        return self._draw(told, sampling, start, pixels, sum(wanted) if wanted else None)

    def vary(self, image: Any, *, num_images: int = 1, **settings: Any) -> Any:
        """Other pictures with the vector of this one: `generate` with an image and no prompt."""
        return self.generate(None, image=image, num_images=num_images, **settings)

    def outpaint(self, image: Any, prompt: str | None = None, *, margin: float = 0.25,
                 **settings: Any) -> Any:  # fmt: skip
        """The picture made smaller, and what might be around it.

        margin: of the new picture, on each side. Settings as in `generate`.
        """
        canvas, mask = with_margin(image, margin, self.image_size)
        return self.generate(prompt, image=canvas, mask=mask, **settings)

    @torch.inference_mode()
    def decode_embeddings(self, vectors: Any, *, negative_prompt: str | None = None,
                          **settings: Any) -> Any:  # fmt: skip
        """Pictures that the vectors (N, D) could be of: stored, averaged, of texts or pictures.

        Settings as in `generate`; all pictures of the first vector come first.
        """
        self._need("decoder", "generates")
        sampling, pooled = self._sampling(settings), self._vectors(vectors)
        return self._decoded(pooled, negative_prompt, sampling)

    @torch.inference_mode()
    def interpolate(self, a: Any, b: Any, num_images: int = 7, *,
                    negative_prompt: str | None = None, **settings: Any) -> Any:  # fmt: skip
        """`num_images` pictures on the way from a to b, from one noise; the ends are their own.

        a, b: a text (a str), a picture (a path as `Path`, Pillow image, bytes, array), a vector
        (D,). Between vectors of pictures the way is the great circle (unCLIP, 2204.06125); where
        a text takes part, the predictions of both are mixed (2206.01714).
        """
        self._need("decoder", "generates")
        if not isinstance(num_images, (int, np.integer)) or num_images < 2:
            raise InputError(f"num_images is {num_images}, wanted at least 2: both ends")
        sampling = self._sampling(settings)
        if sampling.num_images != 1 or sampling.rerank != 1:
            raise InputError("an interpolation draws each picture once: leave rerank out")
        at = torch.linspace(0, 1, num_images, device=self.device)
        first, last = self._end(a, sampling), self._end(b, sampling)
        if not (first.text or last.text):
            pooled = slerp(first.embeddings.pooled[0], last.embeddings.pooled[0], at)
            return self._decoded(pooled, negative_prompt, sampling)
        if is_published(self.decoder):
            refuse(texts="between texts")
        return self._draw(
            mixture(first, last, self._negative(negative_prompt, sampling), at), sampling
        )

    @torch.inference_mode()
    def edit(
        self, image: Any, source: str, target: str, *, amount: float = 0.5,
        strength: float = 0.7, negative_prompt: str | None = None, **settings: Any,
    ) -> Any:  # fmt: skip
        """The picture changed by the difference of two texts, such as "cat" to "dog".

        amount: how far its vector is turned towards unit(target - source), 0 to 1, a quarter turn
        (2204.06125, section 3.3). strength: of the noise that the picture itself is started from.
        """
        self._need("decoder", "generates")
        if not 0 <= amount <= 1:
            raise InputError(f"amount is {amount}, wanted 0 (nothing) to 1")
        if is_published(self.decoder):
            refuse(strength=strength)
        sampling = self._sampling({**settings, "strength": strength})
        told = self._read([*self._checked(source, "warn"), *self._checked(target, "warn")]).pooled
        difference = told[1] - told[0]
        if difference.norm() < 1e-4:
            raise TextError(f"{source!r} and {target!r} mean the same to {self.name}; change one")
        pooled = slerp(self._vector(image), F.normalize(difference, dim=0), amount)[None]
        start, pixels = self._start(image, None, sampling)
        told = self._asks(None, pooled, self._negative(negative_prompt, sampling), sampling)
        return self._draw(told, sampling, start, pixels, wanted=pooled)

    @torch.inference_mode()
    def reconstruct(self, images: Any, *, batch_size: int | None = None) -> list[Image.Image]:
        """Each picture as the pixel decoder sees it in its grid of image tokens."""
        decode = self._need("pixel_decoder", "reconstructs")
        batches = self.embedder.see(images, batch_size=batch_size)
        return [picture for seen in batches for picture in to_pil(decode(seen.tokens))]

    # ------------------------------------------------------------------ inside

    def _sampling(self, asked: dict[str, Any]) -> Sampling:
        if is_published(self.decoder):
            refuse(**asked)
            return Sampling.of(self.config.generation, asked)
        sampling = Sampling.of(self.config.generation, asked)
        if sampling.sampler == FEW:
            sampling = self._few(sampling, asked)
        for name in ("height", "width"):
            given, multiple = getattr(sampling, name), self._cell * self._coarsest
            if given is not None and (given < multiple or given % multiple):
                raise InputError(
                    f"{name} is {given}, and {self.name} draws multiples of {multiple} pixels"
                )
        return sampling

    def _few(self, sampling: Sampling, asked: dict[str, Any]) -> Sampling:
        """The settings of the distilled mode, which has the guidance of its training in it."""
        count = getattr(self.config.decoder, "few_steps", 0)
        if not count:
            raise InputError(
                f"{self.name} has no few-step mode; take one of the samplers {', '.join(SAMPLERS)}"
            )
        for name in ("num_steps", "guidance_scale", "image_guidance_scale"):
            if asked.get(name) is not None:
                raise InputError(f"the sampler {FEW!r} has its own {name}; leave it out")
        return replace(sampling, num_steps=count, guidance_scale=1.0, image_guidance_scale=1.0)

    @property
    def _cell(self) -> int:
        """Pixels along a side of what one place of the decoder's map becomes."""
        return self.image_size // self.config.decoder.map_size

    @property
    def _coarsest(self) -> int:
        return 2 ** (len(self.config.decoder.widths) - 1)

    def _size(self, sampling: Sampling) -> tuple[int, int]:
        return sampling.height or self.image_size, sampling.width or self.image_size

    def _negative(self, prompt: str | None, sampling: Sampling) -> Embeddings | None:
        if prompt is None:
            return None
        if sampling.sampler == FEW:
            raise InputError(
                f"the sampler {FEW!r} has no guidance that could move away from negative_prompt; "
                "leave it out"
            )
        if not isinstance(prompt, str):
            raise TextError(f"negative_prompt is {prompt!r}, wanted one text for all")
        return self._read(self._checked(prompt, "warn"))

    def _vector(self, image: Any) -> Tensor:
        """(D,) of one picture."""
        return next(self.embedder.see([image])).pooled[0]

    def _vectors(self, vectors: Any) -> Tensor:
        found = np.atleast_2d(np.asarray(vectors, np.float32))
        if found.ndim != 2 or found.shape[1] != self.embed_dim or not len(found):
            raise InputError(f"got vectors of shape {found.shape}, wanted (N, {self.embed_dim})")
        if not np.isfinite(found).all() or not found.any(axis=1).all():
            raise InputError("got a vector that is zero, NaN or infinite; wanted directions")
        return F.normalize(torch.from_numpy(found).to(self.device), dim=1)

    def _end(self, end: Any, sampling: Sampling) -> Ask:
        if isinstance(end, str):
            text = self._read(self._checked(end, "warn"))
            return Ask(text, True, False, sampling.guidance_scale)
        is_vector = isinstance(end, np.ndarray) and end.ndim == 1
        pooled = self._vectors(end) if is_vector else self._vector(end)[None]
        return Ask(Embeddings(pooled), False, True, _image_scale(sampling, alone=True))

    def _asks(
        self, text: Embeddings | None, pooled: Tensor | None, negative: Embeddings | None,
        sampling: Sampling,
    ) -> list[Ask]:  # fmt: skip
        if text is None and pooled is None:
            like = torch.zeros(1, self.embed_dim, device=self.device)
            return [away(like, negative, 1.0, 1.0)] if negative is None else [
                away(like, None, sampling.guidance_scale, 1.0),
                away(like, negative, 1.0 - sampling.guidance_scale),
            ]  # fmt: skip
        count = len(text) if text is not None else len(pooled if pooled is not None else [])
        return asks(
            text, pooled, negative and negative.take([0] * count), sampling.guidance_scale,
            _image_scale(sampling, alone=text is None),
        )  # fmt: skip

    def _start(self, image: Any, mask: Any, sampling: Sampling) -> tuple[Start, Tensor | None]:
        """What drawing begins from, and with a mask the pixels (1, 3, H, W) that are kept."""
        picture, size, space = load_image(image), self._size(sampling), self.decoder.space
        pixels = square_or_fitted(picture, self.preprocess, size)
        if self.config.decoder.space == "grid":
            if size != (self.image_size, self.image_size):
                raise InputError(
                    f"{self.name} reads pictures of {self.image_size} x {self.image_size} alone; "
                    "leave height and width out where an image is given"
                )
            known = space.encode(next(self.embedder.see([picture])).tokens)
        else:
            known = space.encode(to_unit(pixels).to(self.device))
        if mask is None:
            return Start(known, None, sampling.strength), None
        drawn = read_mask(mask, picture, self.preprocess, size)
        start = Start(known, space.mask(drawn, self._cell).to(self.device), sampling.strength)
        kept = torch.where(drawn > 0, torch.nan, to_unit(pixels))
        return start, kept.to(self.device)

    def _draw(
        self, told: list[Ask], sampling: Sampling, start: Start | None = None,
        kept: Tensor | None = None, wanted: Tensor | None = None,
    ) -> Any:  # fmt: skip
        height, width = (length // self._cell for length in self._size(sampling))
        scene = Scene(told, start or Start(), (height, width), kept)
        return self._chosen(draw(self.decoder, scene, sampling), wanted, sampling)

    def _decoded(self, pooled: Tensor, negative_prompt: str | None, sampling: Sampling) -> Any:
        """Pictures of unit vectors (K, D)."""
        if is_published(self.decoder):
            refuse(negative_prompt=negative_prompt)
            return self._chosen(draw_published(self.decoder, pooled, sampling), pooled, sampling)
        told = self._asks(None, pooled, self._negative(negative_prompt, sampling), sampling)
        return self._draw(told, sampling, wanted=pooled)

    def _published(
        self, sampling: Sampling, prompt: Any, image: Any, negative_prompt: str | None
    ) -> Any:
        """`generate` by a published decoder: of texts, which it reads itself, or of a picture."""
        if (prompt is None) == (image is None):
            raise InputError("a published decoder draws a prompt or an image; give one of the two")
        if prompt is None:
            return self._decoded(self._vector(image)[None], negative_prompt, sampling)
        texts = self._checked(prompt, "warn")
        images = draw_published(self.decoder, texts, sampling, negative_prompt)
        wanted = self._read(texts).pooled if sampling.rerank > 1 else None
        return self._chosen(images, wanted, sampling)

    def _chosen(self, images: Tensor, wanted: Tensor | None, sampling: Sampling) -> Any:
        """The best of each `rerank`, in the form that was asked for; wanted: unit vectors."""
        if sampling.rerank > 1:
            if wanted is None:
                raise InputError("rerank compares with a prompt, picture or vector; give one")
            images = _best(images, wanted, sampling.rerank, self.embed_images)
        if sampling.output == "pt":
            return images.cpu()
        pictures = to_pil(images)
        return pictures if sampling.output == "pil" else np.stack([np.array(p) for p in pictures])


def _image_scale(sampling: Sampling, alone: bool) -> float:
    """How strictly to follow a vector; beside a text, which has its own scale, less by default."""
    if sampling.image_guidance_scale is not None:
        return float(sampling.image_guidance_scale)
    return float(sampling.guidance_scale) if alone else BESIDE_TEXT


def _best(images: Tensor, wanted: Tensor, rerank: int, embed: Callable) -> Tensor:
    """Of each `rerank` pictures in a row the one whose vector is nearest to what was wanted."""
    fits = torch.from_numpy(embed(to_pil(images))).unflatten(0, (len(wanted), -1, rerank))
    best = torch.einsum("pikd,pd->pik", fits, wanted.cpu()).argmax(dim=2).flatten()
    return images.unflatten(0, (-1, rerank))[torch.arange(len(best)), best.to(images.device)]
