import numpy as np
import pytest

from mmfm.errors import ImageError
from mmfm.evaluation.reconstruction import psnr, ssim


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def flat(value, size=16):
    return np.full((size, size, 3), value, np.uint8)


def test_psnr_of_known_errors():
    assert psnr(flat(10), flat(11)) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    assert psnr(flat(0), flat(255)) == 0
    one_pixel = flat(0).copy()
    one_pixel[0, 0] = 255
    assert psnr(one_pixel, flat(0)) == pytest.approx(10 * np.log10(256))
    assert psnr(flat(3), flat(3)) == float("inf")


def test_ssim_of_flat_pictures_is_the_luminance_term():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1)
    assert ssim(flat(50), flat(100)) == pytest.approx(expected)


def test_ssim_equals_the_formula_written_as_a_loop():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 12, 13, 3), dtype=np.uint8)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (i @ np.array([0.299, 0.587, 0.114]) for i in (a.astype(float), b.astype(float)))
    c1, c2, values = 6.5025, 58.5225, []
    for top in range(2):
        for left in range(3):
            p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            term = (2 * mp * mq + c1) * (2 * cov + c2)
            values.append(term / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values))


def test_ssim_is_one_for_equal_symmetric_and_falls_with_noise(picture):
    rng = np.random.default_rng(2)
    noisy = [
        np.clip(picture + rng.normal(0, std, picture.shape), 0, 255).astype(np.uint8)
        for std in (5, 20, 80)
    ]
    values = [ssim(picture, other) for other in (picture, *noisy)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert ssim(picture, noisy[1]) == pytest.approx(ssim(noisy[1], picture))
    assert ssim(picture, 255 - picture) < 0


def test_pictures_that_do_not_fit_are_refused(picture):
    with pytest.raises(ImageError, match="one size and type"):
        psnr(picture, picture[:-1])
    with pytest.raises(ImageError, match="one size and type"):
        psnr(picture / 255, picture / 255)
    with pytest.raises(ImageError, match="at least 11"):
        ssim(flat(0, 10), flat(0, 10))
