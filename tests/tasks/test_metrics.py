import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tasks.bicubic import crop_to_multiple, resize, shrink
from tasks.color import luminance, to_8bit
from tasks.errors import ImageError
from tasks.metrics import Quality, measure, psnr_db, ssim

seeds = st.integers(0, 2**32 - 1)
scales = st.integers(1, 4)


def pictures(height: int, width: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and the same with noise, as luminance."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    hr = to_8bit(120 + 70 * np.sin(x / 7) * np.cos(y / 5) + rng.normal(0, 12, (height, width)))
    return to_8bit(hr + rng.normal(0, noise, hr.shape)), hr


def scikit_ssim(sr: np.ndarray, hr: np.ndarray) -> float:
    _, likeness = structural_similarity(
        sr.astype(np.float64),
        hr.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return float(likeness[5:-5, 5:-5].mean())


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(321, 481), (48, 37), (27, 64)])
@pytest.mark.parametrize("noise", [0.3, 8, 300])
def test_both_are_scikit_images(scale: int, shape: tuple[int, int], noise: float) -> None:
    sr, hr = pictures(*shape, noise=noise)
    inside = (slice(scale, -scale), slice(scale, -scale))
    quality = measure(sr, hr, scale)
    assert quality == Quality(psnr_db(sr, hr, scale), ssim(sr, hr, scale))
    assert quality.ssim == pytest.approx(scikit_ssim(sr[inside], hr[inside]), abs=1e-12)
    expected = peak_signal_noise_ratio(hr[inside], sr[inside], data_range=255)
    assert quality.psnr_db == pytest.approx(expected, abs=1e-12)


def test_ssim_of_the_smallest_picture_by_hand() -> None:
    # one window only: the definition, Wang et al. 2004, eq. 13 to 16
    sr, hr = (picture.astype(np.float64) for picture in pictures(11, 11, noise=20))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    mean_sr, mean_hr = (window * sr).sum(), (window * hr).sum()
    variance_sr = (window * (sr - mean_sr) ** 2).sum()
    variance_hr = (window * (hr - mean_hr) ** 2).sum()
    covariance = (window * (sr - mean_sr) * (hr - mean_hr)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_sr * mean_hr + c1) * (2 * covariance + c2)
    expected /= (mean_sr**2 + mean_hr**2 + c1) * (variance_sr + variance_hr + c2)
    padded = [np.pad(picture, 2).astype(np.uint8) for picture in (sr, hr)]
    assert ssim(padded[0], padded[1], 2) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(("level", "expected"), [(1, 48.1308036086791), (255, 0.0)])
def test_psnr_of_a_uniform_error(level: int, expected: float) -> None:
    # 20·log10(255/level)
    black = np.zeros((20, 20), np.uint8)
    assert psnr_db(black + np.uint8(level), black, 2) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_flat_pictures() -> None:
    # no structure: only the luminance term is left, (2ab + C1)/(a² + b² + C1)
    dark, bright = np.full((20, 20), 100, np.uint8), np.full((20, 20), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(dark, bright, 2) == pytest.approx(expected, abs=1e-10)


@settings(deadline=None)
@given(seed=seeds, scale=scales, height=st.integers(19, 60), width=st.integers(19, 60))
def test_identical_pictures(seed: int, scale: int, height: int, width: int) -> None:
    _, hr = pictures(height, width, noise=1, seed=seed)
    assert psnr_db(hr, hr, scale) == math.inf
    assert ssim(hr, hr, scale) == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(seed=seeds, scale=scales, noise=st.floats(0.5, 100), size=st.integers(19, 50))
def test_invariants(seed: int, scale: int, noise: float, size: int) -> None:
    sr, hr = pictures(size, size + 9, noise=noise, seed=seed)
    quality = measure(sr, hr, scale)
    assert -1 <= quality.ssim <= 1
    assert quality.psnr_db > 0
    turns = [lambda p: p, lambda p: p.T, lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: 255 - p]
    for turn in turns[:4]:
        for turned in (measure(turn(sr), turn(hr), scale), measure(turn(hr), turn(sr), scale)):
            assert turned.psnr_db == pytest.approx(quality.psnr_db, abs=1e-12)
            assert turned.ssim == pytest.approx(quality.ssim, abs=1e-12)
    assert psnr_db(turns[4](sr), turns[4](hr), scale) == pytest.approx(quality.psnr_db, abs=1e-12)


@settings(deadline=None)
@given(seed=seeds, scale=scales)
def test_the_border_does_not_count(seed: int, scale: int) -> None:
    sr, hr = pictures(30, 34, noise=10, seed=seed)
    other = np.full_like(sr, 255)
    other[scale:-scale, scale:-scale] = sr[scale:-scale, scale:-scale]
    assert measure(other, hr, scale) == measure(sr, hr, scale)
    other[scale, scale] ^= 128
    assert psnr_db(other, hr, scale) != psnr_db(sr, hr, scale)


def test_more_noise_is_worse() -> None:
    qualities = [measure(*pictures(60, 60, noise=noise), 2) for noise in (2, 8, 32, 128)]
    for values in ([q.psnr_db for q in qualities], [q.ssim for q in qualities]):
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("metric", [psnr_db, ssim, measure])
def test_wrong_arguments(metric: Callable[..., object]) -> None:
    square = np.zeros((30, 30), np.uint8)
    with pytest.raises(ValueError, match=r"\(30, 30\) and \(30, 29\)"):
        metric(square, square[:, 1:], 2)
    with pytest.raises(ValueError, match="H×W"):
        metric(np.zeros((30, 30, 3), np.uint8), np.zeros((30, 30, 3), np.uint8), 2)
    with pytest.raises(TypeError, match="float64"):
        metric(square.astype(np.float64), square, 2)
    with pytest.raises(ValueError, match="below 1"):
        metric(square, square, 0)
    with pytest.raises(ImageError, match="4×4 pixels is too small"):
        metric(square[:4, :4], square[:4, :4], 2)


def test_ssim_needs_a_whole_window() -> None:
    picture = np.zeros((14, 40), np.uint8)
    assert ssim(picture[:13], picture[:13], 1) == 1
    with pytest.raises(ImageError, match=r"40×14 pixels .* 11×11 must remain"):
        ssim(picture, picture, 2)


# Kim et al. 2016, Table 3 has 33.66/0.9299, 30.39/0.8682, 28.42/0.8104 and 30.24, 27.55, 26.00;
# the PSNRs below are the same protocol's to three digits.
BICUBIC_ROWS = {
    ("Set5", 2): (33.661, 0.9299),
    ("Set5", 3): (30.392, 0.8682),
    ("Set5", 4): (28.421, 0.8104),
    ("Set14", 2): (30.232, None),
    ("Set14", 3): (27.541, None),
    ("Set14", 4): (26.000, None),
}


def read_test_set(name: str) -> list[np.ndarray]:
    if "SISR_TEST_DATA" not in os.environ:
        pytest.skip("set SISR_TEST_DATA to a folder that holds Set5.zip and Set14.zip")
    with zipfile.ZipFile(Path(os.environ["SISR_TEST_DATA"]) / f"{name}.zip") as archive:
        pngs = [archive.read(entry) for entry in archive.namelist() if entry.endswith(".png")]
    return [np.array(Image.open(io.BytesIO(png))) for png in pngs]


@pytest.mark.parametrize(("name", "scale"), list(BICUBIC_ROWS))
def test_published_bicubic_rows(name: str, scale: int) -> None:
    qualities = []
    for picture in read_test_set(name):
        hr_y = luminance(crop_to_multiple(picture, scale))
        lr_y = shrink(hr_y.astype(np.float64), scale)
        sr_y = to_8bit(resize(lr_y, scale, border="symmetric"))
        qualities.append(measure(sr_y, hr_y, scale))
    expected_psnr_db, expected_ssim = BICUBIC_ROWS[name, scale]
    assert np.mean([q.psnr_db for q in qualities]) == pytest.approx(expected_psnr_db, abs=0.002)
    if expected_ssim is not None:
        assert np.mean([q.ssim for q in qualities]) == pytest.approx(expected_ssim, abs=1e-4)
