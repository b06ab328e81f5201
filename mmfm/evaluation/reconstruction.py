"""How close a decoded picture is to the one that was encoded: PSNR and SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mmfm.data.sample import Sample
from mmfm.errors import DataError, ImageError
from mmfm.preprocess.images import load_image, to_pil, to_pixels

_PEAK = 255.0
_WINDOW, _SIGMA = 11, 1.5  # of SSIM, in pixels
MAX_PSNR = 100.0  # what an identical picture counts in a mean, in dB
_BATCH = 64  # pictures decoded at once


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures (H, W, 3); inf when they are equal.

    Raises ImageError when the pictures differ in shape or are not uint8.
    """
    _expect_alike(a, b)
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(_PEAK**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity in [-1, 1] of the luma of two uint8 pictures (H, W, 3).

    Gaussian window of 11 pixels, sigma 1.5, inside the picture only (Wang et al., 2004,
    doi:10.1109/TIP.2003.819861); luma by BT.601. Raises ImageError as `psnr` does, and for
    pictures of fewer than 11 pixels a side.
    """
    _expect_alike(a, b)
    if min(a.shape[:2]) < _WINDOW:
        raise ImageError(
            f"SSIM needs pictures of at least {_WINDOW} pixels a side, got {a.shape[:2]}; use psnr"
        )
    x, y = (image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) for image in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _blur(x: np.ndarray) -> np.ndarray:
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    rows = sliding_window_view(x, _WINDOW, axis=1) @ kernel
    return sliding_window_view(rows, _WINDOW, axis=0) @ kernel


def _expect_alike(a: np.ndarray, b: np.ndarray) -> None:
    if (
        a.shape != b.shape
        or a.ndim != 3
        or a.shape[2] != 3
        or {a.dtype, b.dtype} != {np.dtype("u1")}
    ):
        raise ImageError(
            f"got pictures {a.dtype} {a.shape} and {b.dtype} {b.shape}, wanted two of uint8 "
            f"(H, W, 3); bring them to one size and type"
        )


class Reconstruction:
    """Mean PSNR (dB) and SSIM of the model's reconstructions, at the model's image size.

    psnr_flat: PSNR when every picture is replaced by its own mean colour, the figure to beat. A
    picture that comes back identical counts 100 dB.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.size = 0
        self.values: dict[str, list[float]] = {"psnr": [], "ssim": [], "psnr_flat": []}

    def __call__(self, block: list[Sample]) -> None:
        for start in range(0, len(block), _BATCH):
            images = [sample.image for sample in block[start : start + _BATCH]]
            for source, picture in zip(images, self.model.reconstruct(images), strict=True):
                self._add(source, np.asarray(picture.convert("RGB")))

    def _add(self, source: bytes, decoded: np.ndarray) -> None:
        self.size = decoded.shape[0]
        original = np.asarray(to_pil(to_pixels(load_image(source), self.size)[None])[0])
        mean = original.mean(axis=(0, 1)).round().astype(np.uint8)
        flat = np.broadcast_to(mean, original.shape)
        self.values["psnr"].append(min(psnr(original, decoded), MAX_PSNR))
        self.values["ssim"].append(ssim(original, decoded))
        self.values["psnr_flat"].append(min(psnr(original, flat), MAX_PSNR))

    def figures(self) -> dict:
        """Raises DataError when there were no samples."""
        if not self.values["psnr"]:
            raise DataError("reconstruction needs samples and got none; pass data with pictures")
        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        return {"num_images": len(self.values["psnr"]), "image_size": self.size, **means}
