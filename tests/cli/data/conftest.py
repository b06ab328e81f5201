"""A folder of pictures with captions, two of them broken, one named but missing."""

import csv

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def album(tmp_path, monkeypatch):
    """`album/` in the current folder: captions.csv of 12 rows; 9 pictures are good, 2 equal."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "album"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(11):
        pixels = random.integers(0, 256, (20 + i, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    (folder / "8.jpg").write_bytes((folder / "7.jpg").read_bytes())
    (folder / "9.jpg").write_bytes((folder / "9.jpg").read_bytes()[:700])
    (folder / "10.jpg").write_bytes(b"<html>not found</html>")
    with open(folder / "captions.csv", "w", newline="") as stream:
        rows = [(f"{i}.jpg", f"picture number {i}") for i in range(12)]
        csv.writer(stream).writerows([("file_name", "text"), *rows])
    return folder
