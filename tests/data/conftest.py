"""Tars made member by member, as no well-behaved program would write them; pictures of noise."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmfm.data.dataset import ShardDataset


@pytest.fixture
def make_tar():
    """make_tar(members, format=USTAR): bytes of a tar; members are (name, data) or a TarInfo."""

    def make(members, format=tarfile.USTAR_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                    continue
                name, data = member
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    return make


@pytest.fixture
def shard_of(make_tar):
    """shard_of("a", "b"): bytes of a tar with a picture, text and JSON a key; they differ."""

    def make(*keys):
        members = []
        for number, key in enumerate(keys):
            members += [
                (f"{key}.json", b'{"captions": ["%s", "more"], "n": %d}' % (key.encode(), number)),
                (f"{key}.png", b"\x89PNG" + key.encode() * (50 + 97 * number)),
                (f"{key}.txt", key.encode()),
            ]
        return make_tar(members)

    return make


@pytest.fixture
def noise():
    """noise(number, side, kind="PNG"): bytes of a picture, another for each number."""

    def make(number, side, kind="PNG"):
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return make


@pytest.fixture
def shards_of_tens(make_tar):
    """shards_of_tens(folder, 3, members): an opened data set; members(row) are those of a row."""

    def make(folder, num_shards, members):
        folder.mkdir(exist_ok=True)
        for shard in range(num_shards):
            rows = range(shard * 10, shard * 10 + 10)
            data = make_tar([member for row in rows for member in members(row)])
            (folder / f"{shard:05d}.tar").write_bytes(data)
        return ShardDataset.open(folder, index_folder=folder / "index")

    return make
