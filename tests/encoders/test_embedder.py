"""From what a user has to vectors: in order, in bounded memory, each picture's error its own."""

import io
import itertools
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.encoders import embedder as module
from mmfm.encoders.embedder import BATCH_SIZE, text_lengths
from mmfm.errors import ImageError, InputError, ModelError, TextError


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return tiny_model.embedder


def pictures(count, size=(40, 30)):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def jpeg(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG")
    return stream.getvalue()


# Streams


def test_a_stream_gives_what_all_at_once_gives(embedder):
    sources = pictures(150)
    wanted = embedder.images(sources)
    for size in (None, 7):
        got = list(embedder.stream_images(iter(sources), batch_size=size))
        assert [position for position, _ in got] == list(range(150))
        np.testing.assert_allclose([vector for _, vector in got], wanted, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 64])
def test_an_unreadable_picture_stands_in_its_place(embedder, tmp_path, size):
    sources = [*pictures(9), b"no picture", tmp_path / "missing.png", *pictures(3), b""]
    wanted = embedder.images([*sources[:9], *sources[11:14]])
    got = [row for _, row in embedder.stream_images(sources, batch_size=size, on_error="skip")]
    bad = [position for position, row in enumerate(got) if isinstance(row, ImageError)]
    assert bad == [9, 10, 14]
    assert "missing.png" in str(got[10]) and "empty" in str(got[14])
    rows = [row for row in got if not isinstance(row, ImageError)]
    np.testing.assert_allclose(rows, wanted, atol=1e-6)


def test_under_raise_the_vectors_before_a_bad_picture_still_come(embedder):
    came = []
    with pytest.raises(ImageError, match="not a picture"):
        for position, _ in embedder.stream_images([*pictures(9), b"bad", *pictures(9)]):
            came.append(position)
    assert came == list(range(9))


def test_only_bad_pictures_need_no_tower(embedder):
    got = list(embedder.stream_images([b"bad"] * 130, on_error="skip"))
    assert [position for position, _ in got] == list(range(130))
    assert all(isinstance(row, ImageError) for _, row in got)
    assert list(embedder.stream_images([])) == []


def test_an_error_holds_no_pixels(embedder):
    [(_, error)] = embedder.stream_images([b"bad"], on_error="skip")
    assert error.__traceback__ is None and error.__cause__ is None and error.__context__ is None


def test_few_pictures_are_taken_ahead(embedder):
    taken, [picture] = [], pictures(1)

    def endless():
        while True:
            taken.append(1)
            yield picture

    stream = embedder.stream_images(endless(), batch_size=4)
    for position in range(20):
        assert next(stream)[0] == position
        assert len(taken) <= position + 1 + 3 * 4 + 2 * module.MOST_WORKERS
    stream.close()


def test_leaving_early_stops_the_threads(embedder):
    before = threading.active_count()
    stream = embedder.stream_images(iter(lambda: b"bad", 0), on_error="skip")
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_decoding_goes_on_while_the_tower_computes(embedder, monkeypatch):
    if module.available_cores() < 2:
        pytest.skip("one core")
    read, encode = module.reader(embedder.preprocess, "exact"), embedder.backbone.encode_images
    begun, decoded, during = threading.Event(), [], threading.Event()

    def reading(source):
        if len(decoded) >= 16:  # the second batch waits for the tower to begin with the first
            begun.wait(10)
            during.set()
        decoded.append(1)
        return read(source)

    def computing(pixels):
        begun.set()
        assert during.wait(10)
        return encode(pixels)

    monkeypatch.setattr(module, "reader", lambda *_: reading)
    monkeypatch.setattr(embedder.backbone, "encode_images", computing)
    assert sum(map(len, embedder.see(pictures(64), batch_size=16))) == 64


def test_an_error_of_the_sources_themselves_comes_through(embedder):
    def sources():
        yield from pictures(3)
        raise KeyError("listing failed")

    with pytest.raises(KeyError, match="listing failed"):
        list(embedder.stream_images(sources()))


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"decode": "quick"}, {"precision": "fp7"}, {"on_error": "cry"}]
)
def test_a_wrong_option_is_told(embedder, wrong):
    with pytest.raises(InputError, match="wanted"):
        list(embedder.stream_images(pictures(1), **wrong))


# Fast decoding


def test_fast_decoding_is_near_and_exact_is_the_default(embedder):
    sources = [jpeg(array) for array in pictures(6, (300, 400))]
    exact, fast = embedder.images(sources), embedder.images(sources, decode="fast")
    assert not np.array_equal(exact, fast)
    np.testing.assert_array_equal(exact, embedder.images(sources, decode="exact"))
    assert (exact * fast).sum(axis=1).min() > 0.98  # white noise is the worst there is


def test_fast_decoding_names_the_file_too(embedder, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg(pictures(1, (64, 64))[0])[:700])
    for decode in ("exact", "fast"):
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            embedder.images(path, decode=decode)


# Memory that ends


def test_memory_that_ends_halves_the_batch(embedder, monkeypatch):
    sources, texts = pictures(40), [f"a tree of {n} leaves" for n in range(40)]
    wanted, tried = (embedder.images(sources), embedder.texts(texts)), []

    def scarce(backbone, precision, tower, samples):
        encode = encoder(backbone, precision, tower, samples)

        def call(batch):
            tried.append(len(batch))
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(batch)

        return call

    encoder = module.encoder
    monkeypatch.setattr(module, "encoder", scarce)
    got = embedder.images(sources), embedder.texts(texts)
    np.testing.assert_allclose(got[0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-6)
    assert tried == [40, 20, 10, *[5] * 8] * 2


def test_the_heads_tokens_come_in_halves_too(embedder, monkeypatch):
    sources, encode = pictures(9), embedder.backbone.encode_images
    wanted = next(embedder.see(sources))

    def scarce(batch):
        if len(batch) > 2:
            raise MemoryError
        return encode(batch)

    monkeypatch.setattr(embedder.backbone, "encode_images", scarce)
    parts = list(embedder.see(sources))
    assert [len(part) for part in parts] == [2, 2, 2, 2, 1]
    for name in ("pooled", "tokens"):
        whole = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(whole, getattr(wanted, name), atol=1e-5, rtol=0)


def test_one_picture_too_many_is_told(embedder, monkeypatch):
    def never(batch):
        raise MemoryError

    monkeypatch.setattr(embedder.backbone, "encode_images", never)
    with pytest.raises(ModelError, match="one picture"):
        list(embedder.see(pictures(3)))


# Texts


def test_equal_texts_are_computed_once_and_batches_hold_like_lengths(embedder, monkeypatch):
    batches, encoder = [], module.encoder

    def counting(*arguments):
        encode = encoder(*arguments)
        return lambda ids: batches.append(text_lengths(ids).tolist()) or encode(ids)

    monkeypatch.setattr(module, "encoder", counting)
    texts = ["tree", "a red tree", "tree", "a b c d e f", "dog", "a red tree"] * 3
    vectors = embedder.texts(texts, batch_size=2)
    lengths = [length for batch in batches for length in batch]
    assert len(lengths) == 4
    assert lengths == sorted(lengths, reverse=True)
    alone = np.concatenate([embedder.texts(text) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)


def test_lengths_stop_where_the_padding_begins():
    ids = torch.tensor([[9, 4, 8, 0, 0], [9, 8, 0, 0, 0], [9, 4, 5, 6, 8], [9, 4, 6, 8, 1]])
    assert text_lengths(ids).tolist() == [3, 2, 4, 4]


def test_only_what_may_be_cut_is_tokenised_again(embedder, monkeypatch):
    asked = []
    tokenizer = embedder.backbone.tokenizer
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: asked.append(text) or encode(text))
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen " * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.texts(["tree", "a red tree"])
    again = [text for text in asked if text == long]
    assert not again
    with pytest.warns(UserWarning, match="1 of 3 texts"):
        embedder.texts(["tree", long, "a red tree"])
    with pytest.raises(TextError, match="Too long"):
        embedder.texts([long], truncate="error")


def test_blank_texts_have_vectors(embedder):
    vectors = embedder.texts(["", " ", "tree", "\n"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_more_texts_than_a_batch(embedder):
    texts = [f"tree number {n}" for n in range(2 * BATCH_SIZE + 3)]
    vectors = embedder.texts(texts)
    np.testing.assert_allclose(vectors[100], embedder.texts(texts[100])[0], atol=1e-6)


# A hundred thousand pictures


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_memory_stays_flat_over_many_pictures(embedder, decode):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("Linux alone tells how much memory a process has")

    def resident():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    some = [jpeg(array) for array in pictures(50, (96, 96))]
    sources = itertools.islice(itertools.cycle([*some, b"damaged"]), 100_000)
    seen = []
    for position, _ in embedder.stream_images(
        sources, decode=decode, precision="fp32", on_error="skip"
    ):
        if position % 10_000 == 9_999:
            seen.append(resident())
    print([round(megabytes) for megabytes in seen])
    assert len(seen) == 10
    assert max(seen) - seen[0] < 20  # megabytes; the vectors alone would be 13, the pictures 2,700
