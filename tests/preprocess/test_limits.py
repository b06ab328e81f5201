"""No file makes the loader take more memory or time than an honest picture may."""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.limits import MAX_SCANS, check_limits
from mmfm.preprocess.scaled import decode_square, fast_square
from mmfm.preprocess.transform import Preprocess

CHILD = """
import json, resource, sys, time
from pathlib import Path
from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.square import reader
from mmfm.preprocess.transform import Preprocess

decode, mode, room, seconds, *paths = sys.argv[1:]
if decode == "fast":
    import torch; torch.set_num_threads(1)
square = reader(Preprocess(resize_mode=mode), decode)
[now] = [l for l in open("/proc/self/status") if l.startswith("VmSize")]
most = 1024 * int(now.split()[1]) + int(room) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
told, ever = {}, resource.RLIM_INFINITY
for path in paths:
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + int(seconds), ever))
    try:
        said = list(square(path).shape)
    except ImageError as error:
        said = str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told[Path(path).name] = [said, round(time.process_time() - start, 2), peak]
print(json.dumps(told))
"""


def in_child(files, decode="exact", mode="shortest", *, room, seconds):
    """{name: [shape or error, CPU seconds, peak MB so far]} of files, under limits of a process."""
    pytest.importorskip("resource")
    if not Path("/proc/self/status").exists():
        pytest.skip("Linux alone tells how much memory a process has")
    arguments = [decode, mode, str(room), str(seconds), *map(str, files)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def refused_files(refused, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    for name, data in refused.items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_what_asks_for_too_much_is_refused_at_once(refused_files, decode):
    told = in_child(refused_files, decode, room=400, seconds=5)
    assert len(told) == len(refused_files)
    passed = {name: said for name, (said, _, _) in told.items() if not isinstance(said, str)}
    assert passed == {"BMP of one far step": [224, 224, 3]}
    for name, (said, _, _) in told.items():
        assert isinstance(said, list) or name in said, said
        if "over the size" in name:
            assert "64 megapixels" in said


def test_no_warning_comes_before_the_refusal(refused):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in refused.items():
            if "over the size" in name:
                with pytest.raises(ImageError, match="64 megapixels"):
                    load_image(data)


def test_as_many_scans_as_cameras_and_sites_make_pass(many_scans):
    for count in (0, 5, MAX_SCANS - 30):
        data = many_scans(count)
        assert load_image(data).size == (64, 64)
        assert decode_square(data, 64).shape == (64, 64, 3)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"icc_profile": bytes(3_000_000), "comment": "x" * 60_000}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(60_000)}),
        ("JPEG", {"restart_marker_blocks": 1}),
        ("PNG", {"icc_profile": bytes(900_000)}),
        ("GIF", {"comment": b"x" * 200_000}),
        ("TIFF", {"icc_profile": bytes(3_000_000)}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"icc_profile": bytes(3_000_000)}),
        ("BMP", {}),
    ],
)
def test_honest_files_with_much_metadata_pass(kind, options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 77, 3), np.uint8))
    data = encoded(image, kind, **options)
    file = io.BytesIO(data)
    check_limits(file, "it")
    assert file.tell() == 0
    assert load_image(data).size == (77, 99)
    assert fast_square(data, Preprocess(image_size=32)).shape == (32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_the_most_that_is_allowed_stays_within_bounds(heavy_files, decode, mode):
    told = in_child(heavy_files, decode, mode, room=2500, seconds=60)
    print(json.dumps(told, indent=1))
    assert {name: said for name, (said, _, _) in told.items()} == {
        path.name: [224, 224, 3] for path in heavy_files
    }
