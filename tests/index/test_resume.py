"""A build that is stopped anywhere: the former index stays, nothing done is done again, and in the
end the index is the one that an undisturbed build makes.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmfm.errors import DataError, ImageError, OutputError
from mmfm.index import FlatIndex, Index
from mmfm.index.lock import only_writer

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
import mmfm.index.build
from mmfm.index import Index
sys.path.insert(0, {tests!r})
from conftest import ColourEmbedder
mmfm.index.build.CHUNK = 4
embed, seen = ColourEmbedder.embed_images, 0
def counted(self, images, **options):
    global seen
    seen += len(images)
    if seen > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(self, images, **options)
ColourEmbedder.embed_images = counted
Index.build(ColourEmbedder({seed}), {folder!r}, {path!r})
"""


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("mmfm.index.build.CHUNK", 4)


def kill_after(count, folder, path, seed=0):
    """Build in another process, killed as the model is given more than `count` pictures."""
    tests = str(Path(__file__).parent)
    code = KILLED.format(tests=tests, after=count, folder=str(folder), path=str(path), seed=seed)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def age(folder):
    """Old enough that size and time tell that a file did not change, however slow this machine."""
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))


def same(a, b):
    return a.paths == b.paths and np.array_equal(a.vectors, b.vectors)


def test_a_killed_first_build_is_gone_on_with(
    embedder, gallery, tmp_path, make_embedder, small_chunks
):
    age(gallery)
    kill_after(9, gallery, tmp_path / "index")
    with pytest.raises(DataError, match=r"not finished; run `mmfm index"):
        Index.open(tmp_path / "index")
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert index.report["resumed"] == index.report["kept"] == 8  # the chunk at hand is lost
    assert embedder.seen == index.report["added"] == 7
    assert same(index, Index.build(make_embedder(), gallery))
    assert same(index, Index.open(tmp_path / "index"))
    again = Index.build(embedder, gallery, tmp_path / "index")
    assert again.report["resumed"] == 0 and again.report["kept"] == 15


def test_the_former_index_is_searched_while_its_successor_is_in_the_making(
    embedder, gallery, tmp_path, make_noise, make_embedder, small_chunks
):
    age(gallery)
    former = Index.build(embedder, gallery, tmp_path / "index")
    for number in range(10):
        make_noise(200 + number).save(gallery / f"new{number}.png")
    make_noise(300).save(gallery / "noise03.png")
    (gallery / "blue.png").unlink()
    kill_after(6, gallery, tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert same(former, opened) and opened.search(former.vectors[3], k=1)[0].row == 3
    seen = embedder.seen
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert index.report["resumed"] == 4 and embedder.seen == seen + 7
    assert same(index, Index.build(make_embedder(), gallery))
    assert same(former, opened)  # which stays open and whole


def test_a_killed_change_of_model_leaves_the_former_one_and_both_can_be_gone_on_with(
    embedder, gallery, tmp_path, make_embedder, small_chunks
):
    age(gallery)
    former = Index.build(embedder, gallery, tmp_path / "index")
    kill_after(9, gallery, tmp_path / "index", seed=1)
    assert same(former, Index.open(tmp_path / "index", embedder))
    other = make_embedder(1)
    index = Index.build(other, gallery, tmp_path / "index")
    assert "another backbone" in index.report["rebuilt"]
    assert index.report["resumed"] == 8 and other.seen == 7
    assert same(index, Index.build(make_embedder(1), gallery))
    kill_after(5, gallery, tmp_path / "index", seed=2)
    seen = other.seen
    assert Index.build(other, gallery, tmp_path / "index").report["kept"] == 15
    assert other.seen == seen  # the half-made index of a third model is dropped


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_loses_one_chunk_and_leaves_nothing_else(
    embedder, gallery, tmp_path, small_chunks, stop, monkeypatch
):
    age(gallery)
    calls = []

    def embed(images, **options):
        calls.append(len(images))
        if len(calls) == 3:
            raise stop
        return type(embedder).embed_images(embedder, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed_images", embed, raising=False)
        with pytest.raises(stop):
            Index.build(embedder, gallery, tmp_path / "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "pictures"]
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert index.report["resumed"] == 8 and len(index) == 15
    used = {name for files in index.engine._manifest.segments for name in files}
    there = {path.name for path in (tmp_path / "index").iterdir()}
    assert there == used | {"index.json", "lock"}


def test_a_change_of_folder_in_a_stopped_build_is_not_trusted(
    embedder, tmp_path, make_noise, small_chunks
):
    """Names, sizes and times are the same in both folders; only the bytes differ."""
    for folder in (1, 2):
        (tmp_path / str(folder)).mkdir()
        for number in range(10):
            path = tmp_path / str(folder) / f"{number}.bmp"
            make_noise(100 * folder + number).save(path)
            os.utime(path, ns=(10**18, 10**18))
    Index.build(embedder, tmp_path / "1", tmp_path / "index")
    kill_after(5, tmp_path / "2", tmp_path / "index")
    assert Index.open(tmp_path / "index").paths[0] == str(tmp_path / "1" / "0.bmp")
    index = Index.build(embedder, tmp_path / "2", tmp_path / "index")
    assert same(index, Index.build(embedder, tmp_path / "2"))


def test_unreadable_pictures_are_kept_and_read_again_only_when_they_change(
    embedder, gallery, tmp_path, make_noise, monkeypatch
):
    for name in ("empty.png", "web.jpg", "mended.gif"):
        (gallery / name).write_bytes(b"" if name == "empty.png" else b"<html>")
        os.utime(gallery / name, ns=(10**18, 10**18))
    first = Index.build(embedder, gallery, tmp_path / "index")
    assert [path for path, _ in first.unreadable] == ["empty.png", "mended.gif", "web.jpg"]
    assert first.unreadable == Index.open(tmp_path / "index").unreadable == first.report["skipped"]
    make_noise(5).save(gallery / "mended.gif")
    read = []

    def watched(source, load=sys.modules["mmfm.index.pictures"].load_image):
        read.append(Path(source).name)
        return load(source)

    monkeypatch.setattr("mmfm.index.pictures.load_image", watched)
    second = Index.build(embedder, gallery, tmp_path / "index")
    assert read == ["mended.gif"]
    assert [path for path, _ in second.report["skipped"]] == ["empty.png", "web.jpg"]
    assert second.report["skipped"] == second.unreadable == first.unreadable[::2]
    with pytest.raises(ImageError, match="0 bytes"):
        Index.build(embedder, gallery, tmp_path / "index", on_error="raise")
    monkeypatch.setattr("mmfm.index.header.__version__", "99")
    monkeypatch.setitem(
        __import__("mmfm.index.header", fromlist=["Header"]).Header.__init__.__kwdefaults__,
        "mmfm", "99",
    )  # fmt: skip
    Index.build(embedder, gallery, tmp_path / "index")
    assert sorted(read[1:]) == ["empty.png", "web.jpg"]  # another version may read more


def test_a_picture_that_is_damaged_later_leaves_the_index_and_is_named(embedder, gallery, tmp_path):
    Index.build(embedder, gallery, tmp_path / "index")
    (gallery / "red.png").write_bytes(b"gone")
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert str(gallery / "red.png") not in index.paths and index.report["removed"] == 1
    assert [path for path, _ in index.report["skipped"]] == ["red.png"]


def test_two_builds_at_once_are_told_apart(embedder, gallery, tmp_path):
    Index.build(embedder, gallery, tmp_path / "index")
    with only_writer(tmp_path / "index"), pytest.raises(OutputError, match="Another process"):
        Index.build(embedder, gallery, tmp_path / "index")


def test_rows_of_something_else_are_not_taken_for_pictures(embedder, gallery, tmp_path):
    FlatIndex.create(tmp_path / "index").add(["a"], np.ones((1, 4)))
    with pytest.raises(DataError, match="not those of a folder of pictures"):
        Index.open(tmp_path / "index")
