"""Building: incremental equals from scratch, and a killed build leaves the older index whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmfm.errors import DataError, ImageError, OutputError
from mmfm.index import Index

ROOT = Path(__file__).resolve().parents[2]


def same(a: Index, b: Index) -> bool:
    by_bytes = [[(e.path, e.size, e.sha256) for e in index.entries] for index in (a, b)]
    return by_bytes[0] == by_bytes[1] and np.array_equal(a.vectors, b.vectors)


def counts(index: Index) -> tuple[int, int, int, int]:
    return tuple(index.report[name] for name in ("added", "changed", "kept", "removed"))


def age(folder: Path) -> None:
    """Make the files old enough that size and time alone tell that they did not change."""
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))


def test_a_new_index(embedder, gallery, tmp_path):
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert len(index) == 15 and counts(index) == (15, 0, 0, 0)
    assert index.vectors.shape == (15, 32) and index.vectors.dtype == np.float32
    assert isinstance(index.vectors, np.memmap)
    assert index.paths == sorted(index.paths)
    assert index.dim == 32 and index.model_name == "colours"
    assert same(index, Index.open(tmp_path / "index"))
    assert same(index, Index.build(embedder, gallery))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "pictures"]
    kinds = sorted(p.name.split(".", 1)[1] for p in (tmp_path / "index").iterdir() if p.suffix)
    assert kinds == ["columns.bin", "ids.bin", "json", "vectors.npy"]  # one segment, no leftovers


@pytest.mark.parametrize("aged", [True, False], ids=["aged", "just written"])
def test_a_second_build_embeds_nothing(embedder, gallery, tmp_path, aged):
    if aged:
        age(gallery)
    first = Index.build(embedder, gallery, tmp_path / "index")
    seen = embedder.seen
    second = Index.build(embedder, gallery, tmp_path / "index")
    assert embedder.seen == seen and counts(second) == (0, 0, 15, 0) and same(first, second)


def test_old_files_are_not_read_again(embedder, gallery, tmp_path, monkeypatch):
    age(gallery)
    Index.build(embedder, gallery, tmp_path / "index")
    monkeypatch.setattr("mmfm.index.entries.file_sha256", lambda path: pytest.fail("read"))
    Index.build(embedder, gallery, tmp_path / "index")


def test_incremental_equals_from_scratch(embedder, gallery, tmp_path, make_noise, make_embedder):
    age(gallery)
    Index.build(embedder, gallery, tmp_path / "index")
    seen = embedder.seen
    make_noise(100).save(gallery / "new.png")
    make_noise(101).save(gallery / "red.png")  # changed
    (gallery / "blue.png").unlink()
    (gallery / "noise05.png").rename(gallery / "below" / "renamed.png")
    os.utime(gallery / "noise06.png")  # touched, bytes as before
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert counts(index) == (2, 1, 12, 2)
    assert embedder.seen == seen + 2  # the new and the changed; the renamed one is known
    assert same(index, Index.build(make_embedder(), gallery))
    assert same(index, Index.open(tmp_path / "index"))


def test_a_change_of_equal_size_and_time_right_after_the_build_is_seen(
    embedder, tmp_path, make_noise
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    make_noise(1).save(folder / "a.bmp")
    stat = (folder / "a.bmp").stat()
    Index.build(embedder, folder, tmp_path / "index")
    make_noise(2).save(folder / "a.bmp")
    os.utime(folder / "a.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (folder / "a.bmp").stat().st_size == stat.st_size
    index = Index.build(embedder, folder, tmp_path / "index")
    assert counts(index) == (0, 1, 0, 0) and same(index, Index.build(embedder, folder))


def test_another_folder_with_the_same_names_sizes_and_times(embedder, tmp_path, make_noise):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "a.bmp"
        make_noise(number).save(path)
        os.utime(path, ns=(10**18, 10**18))
    Index.build(embedder, tmp_path / "1", tmp_path / "index")
    index = Index.build(embedder, tmp_path / "2", tmp_path / "index")
    assert counts(index) == (0, 1, 0, 0) and same(index, Index.build(embedder, tmp_path / "2"))


def test_another_backbone_builds_anew_and_says_so(embedder, gallery, tmp_path, make_embedder):
    Index.build(embedder, gallery, tmp_path / "index")
    other = make_embedder(seed=1)
    index = Index.build(other, gallery, tmp_path / "index")
    assert "another backbone" in index.report["rebuilt"] and other.seen == 15
    assert same(index, Index.build(make_embedder(seed=1), gallery))
    assert Index.build(other, gallery, tmp_path / "index").report["rebuilt"] is None


def test_unreadable_pictures_are_skipped_and_listed(embedder, gallery, tmp_path, make_noise):
    (gallery / "empty.png").write_bytes(b"")
    (gallery / "html.jpg").write_bytes(b"<html>")
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert len(index) == 15
    assert [path for path, _ in index.report["skipped"]] == ["empty.png", "html.jpg"]
    assert "0 bytes" in index.report["skipped"][0][1]
    json.dumps(index.report)
    make_noise(50).save(gallery / "empty.png")
    mended = Index.build(embedder, gallery, tmp_path / "index")
    assert counts(mended) == (1, 0, 15, 0) and len(mended.report["skipped"]) == 1
    with pytest.raises(ImageError, match=r"html\.jpg"):
        Index.build(embedder, gallery, on_error="raise")
    with pytest.raises(DataError, match="on_error"):
        Index.build(embedder, gallery, on_error="ignore")


def test_folders_without_a_readable_picture(embedder, tmp_path):
    with pytest.raises(DataError, match="No picture"):
        Index.build(embedder, tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 1.*a\.png"):
        Index.build(embedder, tmp_path)


def test_nothing_that_is_not_an_index_is_replaced(embedder, gallery, tmp_path):
    with pytest.raises(OutputError, match="not an index"):
        Index.build(embedder, gallery, gallery)
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file", tmp_path / "file" / "index"):
        with pytest.raises(OutputError):
            Index.build(embedder, gallery, place)
    assert embedder.seen == 0  # a bad place is found before any work
    assert len(list(gallery.rglob("*.png"))) == 15
    (tmp_path / "empty").mkdir()
    assert len(Index.build(embedder, gallery, tmp_path / "empty")) == 15


@pytest.mark.parametrize("file", ["*.vectors.npy", "*.ids.bin", "*.columns.bin", "index.json"])
@pytest.mark.parametrize("lost", [False, True], ids=["cut", "lost"])
def test_a_damaged_index_is_refused_and_built_anew(embedder, gallery, tmp_path, file, lost):
    Index.build(embedder, gallery, tmp_path / "index")
    [path] = (tmp_path / "index").glob(file)
    path.unlink() if lost else path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError):
        Index.open(tmp_path / "index")
    index = Index.build(embedder, gallery, tmp_path / "index")
    assert index.report["rebuilt"] or (lost and file == "index.json")
    assert same(index, Index.build(embedder, gallery))
    assert same(index, Index.open(tmp_path / "index"))


def test_an_index_of_the_former_version_is_told_and_built_again(embedder, gallery, tmp_path):
    place = tmp_path / "index"
    place.mkdir()
    for name in ("index.json", "vectors.npy", "entries.jsonl"):
        (place / name).write_text('{"version": 1}')
    with pytest.raises(DataError, match="older version of mmfm; build it again"):
        Index.open(place)
    index = Index.build(embedder, gallery, place)
    assert "older version" in index.report["rebuilt"] and same(index, Index.open(place))
    assert not (place / "entries.jsonl").exists() and not (place / "vectors.npy").exists()


def test_no_index_here(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Index.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not an index"):
        Index.open(tmp_path)


def test_save_writes_what_build_would(embedder, gallery, tmp_path):
    index = Index.build(embedder, gallery)
    index.save(tmp_path / "saved")
    opened = Index.open(tmp_path / "saved", embedder)
    assert same(index, opened) and opened.search("red") == index.search("red")
    opened.save(tmp_path / "saved")  # over itself, its vectors being mapped
    assert same(index, Index.open(tmp_path / "saved"))


def test_moved_index_moved_pictures_and_both(embedder, gallery, tmp_path):
    Index.build(embedder, gallery, tmp_path / "index")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    shutil.move(tmp_path / "index", tmp_path / "elsewhere" / "deep" / "index")
    alone = Index.open(tmp_path / "elsewhere" / "deep" / "index")
    assert alone.paths[0].startswith(str(gallery)) and Path(alone.paths[0]).is_file()

    shutil.move(gallery, tmp_path / "elsewhere" / "pictures")
    told = Index.open(
        tmp_path / "elsewhere" / "deep" / "index", folder=tmp_path / "elsewhere" / "pictures"
    )
    assert Path(told.paths[0]).is_file()

    Index.build(embedder, tmp_path / "elsewhere" / "pictures", tmp_path / "elsewhere" / "index")
    shutil.move(tmp_path / "elsewhere", tmp_path / "moved")
    both = Index.open(tmp_path / "moved" / "index", embedder)
    hit = both.search("red", k=1)[0]
    assert hit.path == str(tmp_path / "moved" / "pictures" / "red.png") and Path(hit.path).is_file()


def test_opening_and_searching_need_no_torch(embedder, gallery, tmp_path):
    Index.build(embedder, gallery, tmp_path / "index")
    code = (
        "import sys; from mmfm.index import Index; "
        f"index = Index.open({str(tmp_path / 'index')!r}); index.search(index.vectors[0]); "
        "sys.exit(bool({'torch', 'open_clip', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
