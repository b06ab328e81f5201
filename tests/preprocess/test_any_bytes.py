"""Any bytes at all give a picture or an ImageError, never another exception, a crash or a hang."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.scaled import fast_square
from mmfm.preprocess.transform import Preprocess

MAGIC = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\xff\xd8\xff\xc2\0\x11\x08",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a",
    b"BM",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"II+\0\x08\0\0\0",
    b"RIFF\x24\0\0\0WEBPVP8 ",
    b"RIFF\x24\0\0\0WEBPVP8X",
]
SMALL = Preprocess(image_size=16)
FUZZ = settings(max_examples=300, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore")


def encoded(kind: str, mode: str = "RGB", size: int = 24, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode) if mode != "I;16" else Image.new(mode, (9, 9), 7)
    if options.get("append_images"):
        options["append_images"] = [image.rotate(90)]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
ANIMATED = {"save_all": True, "append_images": True}
WHOLE = [
    encoded("JPEG", exif=EXIF, icc_profile=b"profile" * 9),
    encoded("JPEG", "L"),
    encoded("JPEG", "CMYK"),
    encoded("JPEG", progressive=True, subsampling=2),
    encoded("JPEG", restart_marker_blocks=1),
    encoded("MPO", **ANIMATED),
    encoded("PNG", exif=EXIF, icc_profile=b"profile" * 9),
    encoded("PNG", "P", transparency=3),
    encoded("PNG", "RGBA"),
    encoded("PNG", "I;16"),
    encoded("PNG", **ANIMATED),
    encoded("GIF", "P", transparency=3, comment=b"words"),
    encoded("GIF", **ANIMATED),
    encoded("BMP"),
    encoded("BMP", "1"),
    encoded("TIFF", exif=EXIF),
    encoded("TIFF", "CMYK"),
    encoded("TIFF", "F"),
    encoded("TIFF", big_tiff=True),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("TIFF", compression="jpeg"),
    encoded("TIFF", "1", compression="group4"),
    encoded("TIFF", **ANIMATED),
    encoded("WEBP", exif=EXIF),
    encoded("WEBP", "RGBA", lossless=True),
    encoded("WEBP", **ANIMATED),
]


def survives(data: bytes) -> None:
    """A picture by both doors, or an ImageError by both."""
    image = None
    with contextlib.suppress(ImageError):
        image = load_image(data)
        assert image.mode == "RGB"
    with contextlib.suppress(ImageError):
        square = fast_square(data, SMALL)
        assert square.shape == (16, 16, 3) and square.dtype == np.uint8
        assert image is not None, "the fast door let something through"
        return
    assert image is None, "the fast door refused a picture"


@pytest.mark.parametrize("data", WHOLE)
def test_whole_files_pass(data):
    assert load_image(data).mode == "RGB"
    survives(data)


@FUZZ
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
def test_random_bytes_give_an_image_error_and_nothing_else(magic, tail):
    survives(magic + tail)


@FUZZ
@given(st.sampled_from(WHOLE), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_damaged_pictures_give_a_picture_or_an_image_error(whole, at, patch):
    at %= len(whole)
    survives(whole[:at] + patch + whole[at + len(patch) :])


@FUZZ
@given(st.sampled_from(WHOLE), st.sampled_from(WHOLE), st.integers(0, 400), st.integers(0, 400))
def test_pieces_of_two_pictures_give_a_picture_or_an_image_error(one, other, first, second):
    survives(one[:first] + other[second:])


@FUZZ
@given(
    st.sampled_from(WHOLE), st.integers(0, 120), st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63]),
    st.sampled_from(["little", "big"]),
)  # fmt: skip
def test_headers_that_claim_much_give_a_picture_or_an_image_error(whole, at, width, value, order):
    field = (value % 2 ** (8 * width)).to_bytes(width, order)
    survives(whole[:at] + field + whole[at + width :])


CHILD = """
import json, random, resource, sys, time, warnings
from pathlib import Path
from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.scaled import fast_square
from mmfm.preprocess.transform import Preprocess
import torch

torch.set_num_threads(1)
warnings.simplefilter("ignore")
folder, count, seed, room = Path(sys.argv[1]), *map(int, sys.argv[2:])
whole = [path.read_bytes() for path in sorted(folder.glob("*.seed"))]
[now] = [line for line in open("/proc/self/status") if line.startswith("VmSize")]
most = 1024 * int(now.split()[1]) + room * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
draw, small, read, slowest = random.Random(seed), Preprocess(image_size=16), 0, 0.0
claims = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**24 - 1, 2**31 - 1, 2**32 - 1, 8000, 2**40]

def damaged(data):
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at, kind = draw.randrange(len(data) + 1), draw.randrange(7)
        at = draw.randrange(min(len(data), 150) + 1) if draw.random() < 0.5 else at
        if kind == 0:
            data = data[:at] + draw.randbytes(draw.randrange(1, 5)) + data[at + 1:]
        elif kind == 1:
            data = data[:at] + data[at + draw.randrange(1, 40):]
        elif kind == 2:
            data = data[:at] + draw.randbytes(draw.randrange(1, 40)) + data[at:]
        elif kind == 3:
            data = data[:at] + draw.choice(whole)[draw.randrange(300):]
        elif kind == 4:
            part = data[at: at + draw.randrange(1, 200)]
            data = data[:at] + part * draw.randrange(2, 200) + data[at:]
        elif kind == 5:
            data = data[:at]
        else:
            width = draw.choice((1, 2, 3, 4, 8))
            order = draw.choice(("little", "big"))
            field = (draw.choice(claims) % 256**width).to_bytes(width, order)
            data = data[:at] + field + data[at + width:]
    return data

for _ in range(count):
    data = damaged(draw.choice(whole))
    (folder / "last").write_bytes(data)  # what a crash leaves behind
    for door in (load_image, lambda data: fast_square(data, small)):
        start = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(start) + 60, resource.RLIM_INFINITY))
        try:
            door(data)
            read += 1
        except ImageError:
            pass
        slowest = max(slowest, time.process_time() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"read": read, "slowest": round(slowest, 2), "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_damaged_files_stay_within_memory_and_time(tmp_path, seed):
    if not Path("/proc/self/status").exists():
        pytest.skip("Linux alone tells how much memory a process has")
    for number, data in enumerate(WHOLE):
        (tmp_path / f"{number:02d}.seed").write_bytes(data)
    arguments = [tmp_path, 10_000, seed, 2500]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True
    )
    said = f"{done.stderr[-2000:]}\nthe last file was {tmp_path / 'last'}"
    assert done.returncode == 0, said
    told = json.loads(done.stdout)
    print(told)
    assert 1000 < told["read"] < 19_000  # neither all whole nor all broken
