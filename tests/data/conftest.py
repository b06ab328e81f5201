"""Tars made member by member, as no well-behaved program would write them."""

import io
import tarfile

import pytest


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
