"""Tiny data sets in every layout, as people bring them."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image


def encoded(seed=0, kind="JPEG", size=(24, 16), mode="RGB"):
    """A picture of its own colours, encoded."""
    channels = len(mode) if mode in ("RGB", "RGBA") else 1
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], channels), np.uint8)
    image = Image.fromarray(values.squeeze()).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data, encoding="utf-8")
    return path


def tar_of(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def bare(root):
    for i, name in enumerate(["cat.jpg", "deep/er/dog.png", "my bird.webp", "Fisch.gif", "é.bmp"]):
        kind = ["JPEG", "PNG", "WEBP", "GIF", "BMP"][i]
        put(root / name, encoded(i, kind))
    return [()] * 5


def sidecar(root):
    for i in range(4):
        put(root / f"{i}.jpg", encoded(i))
        put(root / f"{i}.txt", f"picture {i}\n\nits second line – é\n")
    put(root / "0.json", json.dumps({"url": "http://example.org/0", "captions": ["not these"]}))
    return [(f"picture {i}", "its second line – é") for i in range(4)]


def classes(root):
    for name in ("golden_retriever", "tabby-cat"):
        for i in range(2):
            put(root / name / f"{i}.png", encoded(i + len(name), "PNG"))
    return [("golden retriever",)] * 2 + [("tabby cat",)] * 2


def kaggle(root):
    """Flickr8k: five rows a picture, the pictures one folder down, quoted commas."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(("image", "caption"))
    for i in range(3):
        put(root / "Images" / f"{i}_a.jpg", encoded(i))
        writer.writerows((f"{i}_a.jpg", f"Caption {j}, of {i} .") for j in range(5))
    put(root / "captions.txt", stream.getvalue())
    return [tuple(f"Caption {j}, of {i} ." for j in range(5)) for i in range(3)]


def scattered(root):
    """Flickr30k: pipes, and the rows of one picture far apart."""
    rows = [f"{i}.jpg| {j}| A man {i}, thing {j} .\n" for j in range(3) for i in range(3)]
    put(root / "results.csv", "image_name| comment_number| comment\n" + "".join(rows))
    for i in range(3):
        put(root / "pictures" / f"{i}.jpg", encoded(i))
    return [tuple(f"A man {i}, thing {j} ." for j in range(3)) for i in range(3)]


def imagefolder(root):
    lines = []
    for i in range(3):
        put(root / f"{i}.png", encoded(i, "PNG", mode="RGBA"))
        row = {"file_name": f"{i}.png", "text": [f"one {i}", "two"], "license": "CC0", "n": i}
        lines.append(json.dumps(row) + "\n")
    put(root / "metadata.jsonl", "".join(lines))
    return [(f"one {i}", "two") for i in range(3)]


def parquet_table(root):
    import pyarrow
    import pyarrow.parquet

    for i in range(3):
        put(root / "images" / f"{i}.jpg", encoded(i))
    names = [f"images/{i}.jpg" for i in range(3)]
    captions = [[f"one {i}", "two"] for i in range(3)]
    table = pyarrow.table(
        {"filepath": names, "captions": captions, "score": [0.5, float("nan"), 1]}
    )
    pyarrow.parquet.write_table(table, root / "captions.parquet")
    return [tuple(texts) for texts in captions]


def coco(root):
    images = [{"id": 10 + i, "file_name": f"{i}.jpg", "license": 3} for i in range(3)]
    notes = [
        {"image_id": 10 + i, "caption": f"note {j} of {i}"} for j in range(2) for i in range(3)
    ]
    put(root / "captions.json", json.dumps({"images": images, "annotations": notes}))
    for i in range(3):
        put(root / "train2017" / f"{i}.jpg", encoded(i))
    return [(f"note 0 of {i}", f"note 1 of {i}") for i in range(3)]


def embedded(root):
    import pyarrow
    import pyarrow.parquet

    root.mkdir(parents=True)
    for shard in range(2):
        pictures = [{"bytes": encoded(2 * shard + i), "path": f"{i}.jpg"} for i in range(2)]
        table = pyarrow.table({"image": pictures, "text": [f"s{shard} {i}" for i in range(2)]})
        pyarrow.parquet.write_table(table, root / f"train-{shard:05d}-of-00002.parquet")
    return [("s0 0",), ("s0 1",), ("s1 0",), ("s1 1",)]


def img2dataset(root):
    said = []
    for shard in range(2):
        members = []
        for i in range(3):
            key = f"{shard:05d}{i:04d}"
            known = {"key": key, "caption": f"text {key}", "url": f"http://example.org/{key}"}
            members += [
                (f"{key}.jpg", encoded(3 * shard + i)),
                (f"{key}.txt", f"text {key}".encode()),
                (f"{key}.json", json.dumps(known).encode()),
            ]
            said.append((f"text {key}",))
        tar_of(root / f"{shard:05d}.tar", members)
        put(root / f"{shard:05d}_stats.json", "{}")
        put(root / f"{shard:05d}.parquet", b"not looked at")
    return said


def equal_keys(root):
    """Plain webdataset tars that count their samples anew, in folders, without JSON."""
    for shard in "ab":
        members = []
        for i in range(2):
            members += [(f"x/{i}.png", encoded(i, "PNG")), (f"x/{i}.txt", f"{shard} {i}".encode())]
        tar_of(root / f"{shard}.tar", members)
    return [("a 0",), ("a 1",), ("b 0",), ("b 1",)]


MAKERS = (
    *(bare, sidecar, classes, kaggle, scattered, imagefolder, parquet_table, coco, embedded),
    *(img2dataset, equal_keys),
)


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def any_layout(request, tmp_path):
    """(folder, the captions of its samples in order) for every layout in turn."""
    root = tmp_path / "data"
    return root, request.param(root)


@pytest.fixture
def make(tmp_path):
    """make(name) -> the folder of one layout; make.encoded, make.put, make.tar_of build others."""

    class Make:
        root = tmp_path / "data"

        def __call__(self, name):
            maker = next(maker for maker in MAKERS if maker.__name__ == name)
            maker(self.root)
            return self.root

    Make.encoded = staticmethod(encoded)
    Make.put = staticmethod(put)
    Make.tar_of = staticmethod(tar_of)
    return Make()
