"""Our engine on disk: the same as in memory, crash-safe, one writer, readers in peace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mmfm.errors import DataError, OutputError
from mmfm.index import FlatIndex, segment_files
from mmfm.index.first_pass import MIN_ROWS, FirstPass
from mmfm.index.lock import only_writer

ROOT = Path(__file__).resolve().parents[2]
DIM = 16


def rows(numbers, seed=0, dim=DIM):
    """ids, vectors and metadata, each by its number alone."""
    numbers = [int(number) for number in numbers]
    vectors = [np.random.default_rng((seed, n)).standard_normal(dim) for n in numbers]
    metadata = [{"number": n, "parity": ("even", "odd")[n % 2]} for n in numbers]
    return [f"row{n:05}" for n in numbers], np.array(vectors, np.float32), metadata


def content(index):
    """All that an index holds, comparable."""
    ids = index.ids()
    return ids, index.vectors(ids).tobytes(), index.metadata(ids)


def names(path):
    return {file.name for file in path.iterdir() if file.name != "lock"}


def test_disk_memory_and_opened_again_are_the_same_through_many_changes(tmp_path):
    rng = np.random.default_rng(0)
    disk, memory = FlatIndex.create(tmp_path / "index"), FlatIndex.create()
    for step in range(80):
        some = rng.choice(300, rng.integers(1, 30), replace=False)
        for index in (disk, memory):
            index.add(*rows(some, seed=step))
        gone = [f"row{n:05}" for n in rng.choice(300, 8)]
        assert disk.remove(gone) == memory.remove(gone)
    opened = FlatIndex.open(tmp_path / "index")
    assert content(disk) == content(memory) == content(opened)
    assert opened.ranks(opened.ids()) == list(range(len(opened)))
    assert opened.first_ids(3) == opened.ids()[:3]
    assert len(names(tmp_path / "index")) < 4 * 20  # merged as it grows
    queries = rows(range(1000, 1005))[1]
    found = [index.search(queries, 7, {"parity": "odd"}) for index in (disk, memory, opened)]
    assert found[0].ids == found[1].ids == found[2].ids
    for index in (disk, memory):
        index.compact()
    assert content(disk) == content(opened)
    assert np.array_equal(disk.matrix(), memory.matrix()) and isinstance(disk.matrix(), np.memmap)
    assert disk.search(queries, 7, {"parity": "odd"}).ids == found[0].ids


def test_a_copied_folder_is_an_index(tmp_path):
    index = FlatIndex.create(tmp_path / "a", about={"mine": [1, "two"]})
    index.add(*rows(range(20)))
    index.remove(["row00003"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = FlatIndex.open(tmp_path / "b")
    assert content(copied) == content(index) and copied.about == {"mine": [1, "two"]}
    copied.add(*rows(range(30, 32)))
    assert len(FlatIndex.open(tmp_path / "a")) == 19


def test_an_unchanged_vector_keeps_every_bit_when_it_is_added_again(tmp_path):
    index = FlatIndex.create(tmp_path / "index")
    index.add(*rows(range(50)))
    before = content(index)
    for _ in range(3):
        index.add(index.ids(), index.vectors(index.ids()), index.metadata(index.ids()))
    assert content(index) == before


def test_readers_keep_what_they_opened_while_a_writer_merges_and_removes(tmp_path):
    writer = FlatIndex.create(tmp_path / "index")
    for start in range(0, 60, 10):
        writer.add(*rows(range(start, start + 10)))
    reader = FlatIndex.open(tmp_path / "index")  # has read no metadata yet
    old = names(tmp_path / "index")
    writer.remove([f"row{n:05}" for n in range(0, 60, 2)])
    writer.compact()
    assert not old & names(tmp_path / "index") - {"index.json"}  # all its files are gone
    assert content(reader)[0] == [f"row{n:05}" for n in range(60)]
    assert reader.metadata(["row00006"]) == [{"number": 6, "parity": "even"}]
    assert len(reader.search(rows([1])[1], 60, "parity=even").ids[0]) == 30
    assert len(FlatIndex.open(tmp_path / "index")) == 30


def test_a_writer_that_was_opened_before_a_change_does_not_undo_it(tmp_path):
    first = FlatIndex.create(tmp_path / "index")
    second = FlatIndex.open(tmp_path / "index")
    first.add(*rows(range(5)))
    second.add(*rows(range(3, 8), seed=1))
    assert first.remove(["row00007"]) == 1
    assert len(FlatIndex.open(tmp_path / "index")) == 7


def test_a_reader_that_opens_while_a_writer_works_sees_one_state_or_another(tmp_path):
    FlatIndex.create(tmp_path / "index").add(*rows(range(10)))
    writer, failed = FlatIndex.open(tmp_path / "index"), []

    def write():
        for step in range(40):
            writer.add(*rows(range(10), seed=step))
            writer.compact()

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        try:
            assert len(FlatIndex.open(tmp_path / "index")) == 10
        except Exception as error:
            failed.append(error)
    thread.join()
    assert not failed


def test_a_second_writer_is_told_in_one_sentence(tmp_path):
    index = FlatIndex.create(tmp_path / "index")
    index.add(*rows(range(3)))
    with only_writer(tmp_path / "index"):
        for act in (lambda: index.add(*rows([9])), lambda: index.remove(["row00001"])):
            with pytest.raises(OutputError, match="Another process is writing"):
                act()
        assert len(FlatIndex.open(tmp_path / "index")) == 3  # readers need no leave
    index.add(*rows([9]))
    assert len(index) == 4


def killed_at(step, work):
    """Run `work` in a child that is killed before its step-th call of fsync or rename; True if it
    was, False if it came to its end before.
    """
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(act):
            def call(*arguments):
                nonlocal calls
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return act(*arguments)

            return call

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
@pytest.mark.parametrize("act", ["add", "remove", "compact", "describe"])
def test_a_kill_at_any_moment_leaves_the_state_before_or_after(tmp_path, act):
    start = tmp_path / "start"
    index = FlatIndex.create(start)
    for part in range(7):
        index.add(*rows(range(5 * part, 5 * part + 5)))  # the eighth makes them one segment
    work = {
        "add": lambda index: index.add(*rows(range(30, 50), seed=1)),
        "remove": lambda index: index.remove([f"row{n:05}" for n in range(4, 20)]),
        "compact": lambda index: index.compact(),
        "describe": lambda index: index.describe({"new": True}),
    }[act]
    shutil.copytree(start, tmp_path / "after")
    after = FlatIndex.open(tmp_path / "after")
    work(after)
    states = {False: content(index), True: content(after)}
    seen, step = set(), 1
    while True:
        place = tmp_path / f"step{step}"
        shutil.copytree(start, place)
        was_killed = killed_at(step, lambda place=place: work(FlatIndex.open(place)))
        found = FlatIndex.open(place)
        assert content(found) in states.values()
        seen.add(content(found) == states[True] and (act != "describe" or found.about != {}))
        found.add(*rows([99]))  # the next writer is not in the way of the dead one, and sweeps
        used = {name for files in found._manifest.segments for name in files}
        assert names(place) == used | {"index.json"}
        if not was_killed:
            break
        step += 1
    assert step > 2 and True in seen


def test_a_draft_is_seen_by_nobody_until_it_is_published_and_is_found_again(tmp_path):
    index = FlatIndex.create(tmp_path / "index", about={"make": 1})
    index.add(*rows(range(10)))

    def accept(about):
        return None

    with only_writer(tmp_path / "index"):
        draft = FlatIndex.draft(tmp_path / "index", accept)
        assert not draft.resumed and draft.refused is None and len(draft.engine) == 10
        draft.engine.add(*rows(range(10, 15)))
        assert len(FlatIndex.open(tmp_path / "index")) == 10
        again = FlatIndex.draft(tmp_path / "index", accept)
        assert again.resumed and len(again.engine) == 15
        other = FlatIndex.draft(tmp_path / "index", lambda about: f"made by {about['make']}")
        assert not other.resumed and other.refused == "made by 1" and len(other.engine) == 0
        other.engine.add(*rows(range(3), dim=8))
        assert len(FlatIndex.open(tmp_path / "index")) == 10
        other.engine.publish()
    assert len(FlatIndex.open(tmp_path / "index")) == 3
    assert names(tmp_path / "index") == {"index.json", *other.engine._manifest.segments[0]}


def test_a_draft_does_not_undo_what_was_written_to_the_index_since(tmp_path):
    index = FlatIndex.create(tmp_path / "index")
    index.add(*rows(range(3)))
    with only_writer(tmp_path / "index"):
        FlatIndex.draft(tmp_path / "index", lambda about: None).engine.add(*rows(range(5, 9)))
    index.add(*rows([4]))
    with only_writer(tmp_path / "index"):
        draft = FlatIndex.draft(tmp_path / "index", lambda about: None)
    assert not draft.resumed and len(draft.engine) == 4


def clustered(count, dim=256, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 8)) @ rng.standard_normal((8, dim)) + 0.3 * (
        rng.standard_normal((count, dim))
    )


def test_a_large_index_has_a_first_pass_that_finds_nearly_all_and_exact_finds_all(
    tmp_path, monkeypatch
):
    vectors = clustered(MIN_ROWS + 500).astype(np.float32)
    ids = [f"{n:06}" for n in range(len(vectors))]
    kinds = [{"third": n % 3 == 0} for n in range(len(vectors))]
    index = FlatIndex.create(tmp_path / "index")
    index.add(ids, vectors, kinds)
    index = FlatIndex.open(tmp_path / "index")
    assert index._segments[0].first is not None
    index.remove(ids[:100])
    with monkeypatch.context() as patch:
        patch.setattr(FirstPass, "fit", lambda rows: pytest.fail("made again"))
        index.compact()
    assert index._segments[0].first is not None and len(index.matrix()) == MIN_ROWS + 400
    queries = vectors[rng_rows(len(vectors), 50)] + 0.2 * clustered(50, seed=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for where, allowed in ((None, slice(100, None)), ("third=true", slice(102, None, 3))):
        scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ unit[allowed].T
        best = [np.array(ids)[allowed][row].tolist() for row in np.argsort(-scores)[:, :10]]
        assert [sorted(i) for i in index.search(queries, 10, where, exact=True).ids] == [
            sorted(i) for i in best
        ]
        near = index.search(queries, 10, where)
        shared = [len(set(a) & set(b)) for a, b in zip(near.ids, best)]
        assert np.mean(shared) >= 9.9


def rng_rows(count, some):
    return np.random.default_rng(5).choice(count, some, replace=False)


@pytest.mark.parametrize("kind", ["vectors.npy", "ids.bin", "columns.bin", "removed.npy"])
@pytest.mark.parametrize("fault", ["cut", "lost", "garbage"])
def test_a_damaged_file_is_told(tmp_path, kind, fault):
    index = FlatIndex.create(tmp_path / "index")
    index.add(*rows(range(40)))
    index.remove(["row00001"])
    [path] = (tmp_path / "index").glob(f"*.{kind}")
    data = path.read_bytes()
    if fault == "lost":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if fault == "cut" else b"\xff" * len(data))
    with pytest.raises(DataError, match="build it again"):
        FlatIndex.open(tmp_path / "index")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 3}', "\xff"])
def test_a_damaged_manifest_is_told(tmp_path, text):
    FlatIndex.create(tmp_path / "index").add(*rows(range(3)))
    (tmp_path / "index" / "index.json").write_text(text)
    with pytest.raises(DataError, match="build it again"):
        FlatIndex.open(tmp_path / "index")


def test_a_folder_in_use_is_not_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    (tmp_path / "file").write_text("")
    FlatIndex.create(tmp_path / "index")
    for name in ("mine", "file", "file/below", "index"):
        with pytest.raises(OutputError):
            FlatIndex.create(tmp_path / name)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"


def test_ids_and_metadata_may_be_any_text(tmp_path):
    odd = ["", "a/b c.png", "é", "日本", os.fsdecode(b"\xff\xfe.png"), "\U0001f600", "a\nb", "\x00"]
    index = FlatIndex.create(tmp_path / "index")
    metadata = [{"text": name, "none": None, "large": 2**70, "flag": True} for name in odd]
    index.add(odd, rows(range(len(odd)))[1], metadata)
    opened = FlatIndex.open(tmp_path / "index")
    assert opened.ids() == sorted(odd) and opened.metadata(odd) == metadata
    for name in odd:
        assert opened.search(rows([0])[1], 9, {"text": name}).ids == [[name]]
    json.dumps(opened.metadata(odd))


def test_writing_reading_and_searching_need_numpy_alone(tmp_path):
    code = (
        "import sys, numpy as np; from mmfm.index.flat import FlatIndex; "
        f"index = FlatIndex.create({str(tmp_path / 'index')!r}); "
        "index.add(['a', 'b'], np.eye(2), [{'n': 1}, {}]); index.search(np.ones(2), 1, 'n=1'); "
        "sys.exit(bool({'torch', 'open_clip', 'PIL', 'faiss'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_merging_does_not_hold_the_vectors(tmp_path):
    parts = [FlatIndex.create(tmp_path / str(n)) for n in range(2)]
    for number, part in enumerate(parts):
        part.add(*rows(range(number, 40, 2)))
    merged = segment_files.merge(tmp_path, [part._segments[0] for part in parts])
    assert isinstance(merged.vectors, np.memmap)
    assert np.array_equal(merged.vectors, matrix_of(rows(range(40))))


def matrix_of(given):
    index = FlatIndex.create()
    index.add(*given)
    return index.matrix()
