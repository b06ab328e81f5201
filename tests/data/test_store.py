"""The store: what goes in comes out by its content, for its towers alone, and nothing half done."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmfm.data.keyed import KeyedRows, as_keys, content_key, file_stem, hex_keys
from mmfm.data.store import EmbeddingStore, Identity, ShardKeys, no_keys, normalise, text_key
from mmfm.errors import DataError, OutputError

OURS = Identity(image="a" * 64, preprocess="b" * 64, text="c" * 64)


def keys_of(*numbers):
    return [content_key(str(number).encode()) for number in numbers]


def vectors(count, width=16, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill(store, numbers, kind="pooled", rows=None, stem="00000"):
    rows = vectors(len(numbers)) if rows is None else rows
    store.claim([kind])
    with store.rows(kind).writing(stem, {}) as writer:
        writer.add(as_keys(keys_of(*numbers)), rows.astype(np.float16))
    return rows


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store", OURS, "tiny")


def test_rows_come_back_in_the_order_they_are_asked_for(store):
    rows = fill(store, range(10))
    asked = [7, 0, 7, 3]
    assert np.abs(store.pooled(keys_of(*asked)) - rows[asked]).max() < 5e-4
    assert store.pooled(keys_of(*asked)).dtype == np.float32
    raw = np.frombuffer(bytes.fromhex("".join(keys_of(*asked))), np.uint8).reshape(-1, 32)
    assert np.array_equal(store.pooled(raw), store.pooled(keys_of(*asked)))


@pytest.mark.parametrize("width", [192, 512, 1152])
def test_half_precision_costs_less_than_the_stated_error(store, width):
    rows = vectors(1000, width)
    fill(store, range(1000), rows=rows)
    kept = store.pooled(keys_of(*range(1000)))
    cosines = (kept.astype(np.float64) * rows).sum(axis=1) / np.linalg.norm(rows, axis=1)
    assert cosines.min() > 0.9999998
    assert np.abs(np.linalg.norm(kept, axis=1) - 1).max() < 1e-6


def test_a_vector_of_512_numbers_takes_one_kilobyte_and_its_key(store):
    fill(store, range(20_000), rows=vectors(20_000, 512))
    size = store.size("pooled")
    assert size.rows == 20_000
    assert size.bytes_per_row <= 1024 + 32 + 1
    fill(store, range(20_000, 40_000), rows=vectors(20_000, 192))
    assert size.bytes < store.size("pooled").bytes <= size.bytes + 20_000 * (384 + 32 + 1)


def test_files_are_plain_safetensors(store):
    rows = fill(store, range(5))
    [path] = store.rows("pooled").files
    tensors = load_file(path)
    assert np.array_equal(tensors["rows"], rows.astype(np.float16))
    assert hex_keys(tensors["keys"]) == keys_of(*range(5))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=40), min_size=1, max_size=12))
def test_any_number_of_files_answers_as_one_dictionary(tmp_path_factory, parts):
    """Many files, equal keys in several of them: every key gives its row, no other key does."""
    rows = KeyedRows(tmp_path_factory.mktemp("rows"))
    for part in parts:
        numbers = sorted(set(part))
        with rows.writing("x", {}) as writer:
            for number in numbers:
                writer.add(as_keys(keys_of(number)), np.full((1, 2), number, np.float16))
    known = sorted({number for part in parts for number in part})
    assert np.array_equal(rows.get(keys_of(*known))[:, 0], np.array(known, np.float16))
    assert rows.has(keys_of(*range(301))).nonzero()[0].tolist() == known
    again = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(again.get(keys_of(*known)), rows.get(keys_of(*known)))


def test_keys_that_begin_alike_are_told_apart(tmp_path):
    """The look-up compares 8 bytes first; the other 24 decide."""
    keys = np.zeros((50, 32), np.uint8)
    keys[:, 31] = np.arange(50)
    rows = KeyedRows(tmp_path)
    for part in np.split(np.arange(50), [10, 11, 30]):
        with rows.writing("x", {}) as writer:
            writer.add(keys[part], part.astype(np.float32)[:, None])
    assert np.array_equal(rows.get(keys)[:, 0], np.arange(50))
    stranger = keys[:1].copy()
    stranger[0, 31] = 200
    assert not rows.has(stranger).any()


def test_missing_keys_are_counted_and_the_command_is_named(store):
    fill(store, range(5))
    with pytest.raises(DataError, match="2 of 4 pictures are not in") as caught:
        store.pooled(keys_of(3, 4, 5, 6))
    assert f"model tiny; add them with `mmfm data embed SHARDS -o {store.folder}" in str(
        caught.value
    )
    with pytest.raises(DataError, match="--grids`"):
        store.grids(keys_of(3))
    with pytest.raises(DataError, match=r"1 of 1 texts.*--texts`"):
        store.texts(["a tree"])
    with pytest.raises(DataError, match="give at least one"):
        store.pooled([])
    with pytest.raises(DataError, match="64 hex digits"):
        store.pooled(["abc"])
    assert store.has(keys_of(4, 5)).tolist() == [True, False]
    assert set(store.found(keys_of(4, 5))) == set(keys_of(4))


@pytest.mark.parametrize(
    ("changed", "kind", "kept"),
    [
        ({"image": "d" * 64}, "pooled", False),
        ({"preprocess": "d" * 64}, "pooled", False),
        ({"text": "d" * 64}, "pooled", True),
        ({"text": "d" * 64}, "text", False),
        ({"image": "d" * 64}, "text", True),
    ],
)
def test_another_tower_sees_nothing_of_the_old_one(store, changed, kind, kept):
    fill(store, range(3), kind)
    other = EmbeddingStore(store.folder, Identity(**{**vars(OURS), **changed}))
    assert other.has(keys_of(0, 1, 2), kind).all() == kept
    assert bool(other.stale()) != kept
    other.prune()
    assert store.folder.is_dir()
    fresh = EmbeddingStore(store.folder, OURS)
    assert fresh.has(keys_of(0), kind).all() == kept


def test_hashes_that_begin_alike_do_not_share_a_folder(store):
    fill(store, range(3))
    twin = Identity(image="a" * 12 + "f" * 52, preprocess=OURS.preprocess, text=OURS.text)
    with pytest.raises(DataError, match="hash begins alike"):
        EmbeddingStore(store.folder, twin).has(keys_of(0))


def test_a_store_of_one_model_need_not_be_told_whose_it_is(store, tmp_path):
    with pytest.raises(DataError, match="is no embedding store"):
        EmbeddingStore(tmp_path / "nothing")
    fill(store, range(3))
    fill(store, [7], "text")
    found = EmbeddingStore(store.folder)
    assert (found.identity, found.model) == (OURS, "tiny")
    assert found.has(keys_of(0)).all()
    fill(EmbeddingStore(store.folder, Identity(image="9" * 64, preprocess="8" * 64, text="")), [1])
    with pytest.raises(DataError, match="of 2 models"):
        EmbeddingStore(store.folder)


def cut(data):
    return data[:-40]


def empty(data):
    return b""


def unfinished(data):
    return bytes(4096) + data[4096:]  # killed before the header was written


def other_keys(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def swap_shape(data):
    return data.replace(b'"shape": [5, 16]', b'"shape": [9, 16]')


def text_header(data):
    return data[:8] + b"{" * 4088 + data[4096:]


@pytest.mark.parametrize("damage", [cut, empty, unfinished, other_keys, swap_shape, text_header])
def test_a_damaged_file_is_named_left_out_and_cleared_away(store, damage):
    fill(store, range(5), stem="good")
    fill(store, range(5, 10), stem="bad")
    [path] = store.folder.glob("*/pooled/bad-*")
    changed = damage(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    again = EmbeddingStore(store.folder, OURS)
    assert again.has(keys_of(*range(10))).tolist() == [True] * 5 + [False] * 5
    [(named, reason)] = again.claim(["pooled"]).items()
    assert named == path
    assert str(path) in reason
    assert not path.exists()
    assert again.claim(["pooled"]) == {}
    assert again.has(keys_of(*range(5))).all()


def test_one_wrong_bit_is_found_by_the_deep_check(store):
    fill(store, range(5), stem="good")
    fill(store, range(5, 10), stem="bad")
    [path] = store.folder.glob("*/pooled/bad-*")
    data = bytearray(path.read_bytes())
    data[4100] ^= 1
    path.write_bytes(data)
    again = EmbeddingStore(store.folder, OURS)
    assert again.claim(["pooled"]) == {}
    assert list(again.claim(["pooled"], check=True)) == [path]
    assert not path.exists()
    assert again.has(keys_of(*range(10))).tolist() == [True] * 5 + [False] * 5
    assert again.pooled(keys_of(0)).shape == (1, 16)


def test_a_writer_that_fails_leaves_nothing(store):
    store.claim(["pooled"])
    rows = store.rows("pooled")
    with pytest.raises(RuntimeError), rows.writing("x", {}) as writer:
        writer.add(as_keys(keys_of(1)), np.ones((1, 4), np.float16))
        raise RuntimeError("the power went")
    with rows.writing("x", {}) as writer:
        pass  # no rows, no file
    assert list(rows.folder.iterdir()) == []
    with pytest.raises(ValueError, match="after float16"), rows.writing("x", {}) as writer:
        writer.add(as_keys(keys_of(1)), np.ones((1, 4), np.float16))
        writer.add(as_keys(keys_of(2)), np.ones((1, 5), np.float16))
    assert list(rows.folder.iterdir()) == []


def test_what_a_killed_writer_left_is_ignored_and_later_removed(store):
    fill(store, range(5))
    folder = store.rows("pooled").folder
    left = folder / ".0123.safetensors"
    left.write_bytes(bytes(5000))
    store.claim(["pooled"])
    assert left.exists()  # its writer may be alive
    os.utime(left, (0, 0))
    store.claim(["pooled"])
    assert not left.exists()
    assert len(EmbeddingStore(store.folder, OURS).rows("pooled")) == 5


def test_a_full_disk_is_told_in_one_sentence(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # bytes of one file
    try:
        with (
            pytest.raises(OutputError, match="File too large; make room"),
            KeyedRows(tmp_path).writing("x", {}) as writer,
        ):
            writer.add(as_keys(keys_of(1)), np.ones((1, 1 << 20), np.float16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another"):
        EmbeddingStore(tmp_path / "file" / "store", OURS).claim(["pooled"])


def test_files_of_other_writers_are_seen_after_refresh(store):
    fill(store, range(5))
    other = EmbeddingStore(store.folder, OURS)
    assert not other.has(keys_of(9)).any()
    fill(store, [9])
    other.refresh()
    assert other.has(keys_of(9, 0)).all()
    for path in store.rows("pooled").files[:1]:
        path.unlink()
    other.refresh()
    assert other.has(keys_of(9, 0)).sum() == 1


def test_equal_rows_written_twice_are_one_file(store):
    fill(store, range(5))
    fill(store, range(5))
    assert len(store.rows("pooled").files) == 1
    assert store.size("pooled").rows == 5


def test_what_a_shard_holds_is_remembered_until_it_changes(store):
    keys = ShardKeys(as_keys(keys_of(1, 2)), as_keys(keys_of(5, 6, 7)), np.array([3, 0], np.int32))
    store.remember("data/00001.tar", "v1", keys)
    again = store.shard_keys("data/00001.tar", "v1")
    for name in ("images", "captions", "counts"):
        assert np.array_equal(getattr(again, name), getattr(keys, name))
    assert store.shard_keys("data/00001.tar", "v2") is None
    assert store.shard_keys("other/00001.tar", "v1") is None
    store.remember("data/00001.tar", "v1", ShardKeys(no_keys(2)))
    assert store.shard_keys("data/00001.tar", "v1").captions is None
    [note] = (store.folder / "shards").iterdir()
    note.write_bytes(b"half")
    assert store.shard_keys("data/00001.tar", "v1") is None


@pytest.mark.parametrize(
    "text", ["a  tree\n", "a tree", " a\ttree ", "a\u00a0tree", "caf\u00e9", "cafe\u0301", ""]
)
def test_texts_that_look_alike_have_one_key(text):
    shown = "café" if "caf" in text else " ".join(text.split())
    assert text_key(text) == text_key(shown)
    assert normalise(normalise(text)) == normalise(text)
    assert text_key("a tree") != text_key("A tree")


def test_shard_names_make_safe_file_names():
    for name in ("s3://bucket/a b/00001.tar", "../../etc/passwd", "/x/.tar", "", "é" * 300):
        stem = file_stem(name)
        assert stem and not stem.startswith(".") and len(stem) <= 64
        assert not set(stem) & set("/\\: ")


def test_the_store_is_read_without_torch(store):
    fill(store, range(3))
    code = (
        "import sys; from mmfm.data.store import EmbeddingStore;"
        f"print(EmbeddingStore({str(store.folder)!r}).pooled([{keys_of(1)[0]!r}]).shape);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1, 16)", "False"]
