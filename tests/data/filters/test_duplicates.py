"""Copies are found however they were made; different pictures stay."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmfm.data.filters import EmbeddingDuplicates, ExactDuplicates, NearDuplicates
from mmfm.data.filters.duplicates import first_of_alike
from mmfm.data.filters.phash import describe, phash, sketch_difference
from mmfm.errors import DataError, ImageError
from tests.data.filters.pictures import crop, encode, sample, scene

COUNT = 60
RESIZE = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2)),
    "a little smaller": lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)),
}
REENCODE = {
    "JPEG": lambda image: encode(image, "JPEG", quality=75),
    "poor JPEG": lambda image: encode(image, "JPEG", quality=30),
    "WebP": lambda image: encode(image, "WEBP", quality=50),
    "with alpha": lambda image: encode(image.convert("RGBA")),
}


def dropped(one, samples, rows=None):
    """{row: row it repeats} of a measured filter."""
    for row, each in enumerate(samples):
        one.see([row], [one.measure(each)])
    chosen = np.arange(len(samples)) if rows is None else np.array(rows)
    return {row: drop.of for row, drop in one.judge_all(chosen)}


def copies(change):
    """COUNT scenes, then a changed copy of each."""
    scenes = [scene(seed) for seed in range(COUNT)]
    return [sample(i, image=encode(one)) for i, one in enumerate(scenes)] + [
        sample(COUNT + i, image=change(one)) for i, one in enumerate(scenes)
    ]


@pytest.mark.parametrize("change", REENCODE)
def test_reencoded_copies_go_and_nothing_else(change):
    gone = dropped(NearDuplicates(), copies(REENCODE[change]))
    assert gone == {COUNT + i: i for i in range(COUNT)}


@pytest.mark.parametrize("change", RESIZE)
def test_resized_copies_go_and_nothing_else(change):
    gone = dropped(NearDuplicates(), copies(lambda image: encode(RESIZE[change](image), "JPEG")))
    assert gone == {COUNT + i: i for i in range(COUNT)}


def test_most_slightly_cropped_copies_go_and_nothing_else():
    samples = copies(lambda image: encode(crop(image, 1 / 64), "JPEG"))
    usual, loose = dropped(NearDuplicates(), samples), dropped(NearDuplicates(10, 0.2), samples)
    for gone, share in ((usual, 0.6), (loose, 0.9)):
        assert all(row == COUNT + of for row, of in gone.items())
        assert len(gone) >= share * COUNT


def test_colour_alone_tells_pictures_apart():
    discs = []
    for number, colour in enumerate(["red", "#00b000", "#2040ff", "black", "orange"]):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=colour)
        discs.append(sample(number, image=encode(image)))
    hashes = [describe(disc.image)[0] for disc in discs]
    assert max((a ^ b).bit_count() for a in hashes for b in hashes) <= 8  # the hash cannot
    assert dropped(NearDuplicates(), discs) == {}


def test_faint_pictures_are_not_all_one():
    faint = []
    for number in range(4):
        image = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(image)
        draw.rectangle((8 * number, 10, 8 * number + 20, 50), fill=(225, 225, 225))
        faint.append(sample(number, image=encode(image)))
    assert dropped(NearDuplicates(), faint) == {}


def test_a_symmetric_drawing_keeps_its_hash_through_jpeg():
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((20, 20, 43, 43), fill="black")
    again = Image.open(io.BytesIO(encode(image, "JPEG", quality=75)))
    assert (phash(image) ^ phash(again.convert("RGB"))).bit_count() <= 4


def test_a_large_jpeg_read_small_is_described_as_the_whole():
    image = scene(3, size=(1600, 1200))
    small, whole = describe(encode(image, "JPEG", quality=95)), describe(encode(image))
    assert (small[0] ^ whole[0]).bit_count() <= 2
    sketches = [np.frombuffer(one[1], np.uint8)[None] for one in (small, whole)]
    assert sketch_difference(*sketches)[0] < 0.02


def test_an_alpha_channel_is_seen_on_white():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=(200, 30, 30, 255))
    white = Image.new("RGBA", (64, 64), "white")
    assert describe(encode(image)) == describe(encode(Image.alpha_composite(white, image)))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8 no picture", b"GIF89a"])
def test_what_is_no_picture_is_said_to_be_none(data):
    with pytest.raises(ImageError):
        describe(data)


def test_a_cut_jpeg_is_not_hashed_by_its_half():
    data = encode(scene(1, size=(640, 480)), "JPEG")
    with pytest.raises(ImageError, match="cut short"):
        describe(data[: len(data) // 2])


def test_exact_copies_go_by_their_bytes_alone():
    png = encode(scene(1))
    samples = [sample(0, image=png), sample(1), sample(2, image=png), sample(3, image=png)]
    assert dropped(ExactDuplicates(), samples) == {1: 0, 2: 0, 3: 0}
    other = [sample(0, image=png), sample(1, image=encode(scene(1), "JPEG")), sample(2)]
    assert dropped(ExactDuplicates(), other) == {}


@pytest.mark.parametrize("make", [ExactDuplicates, NearDuplicates])
def test_a_copy_of_what_an_earlier_filter_dropped_stays(make):
    samples = [sample(i, image=encode(scene(1))) for i in range(3)]
    assert dropped(make(), samples, rows=[1, 2]) == {2: 1}


@pytest.mark.parametrize("values", [{"distance": 17}, {"distance": -1}, {"difference": 1.5}])
def test_settings_without_meaning_are_refused(values):
    with pytest.raises(DataError):
        NearDuplicates(**values)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocked_search_equals_brute_force(block, monkeypatch):
    monkeypatch.setattr("mmfm.data.filters.duplicates.VECTOR_BLOCK", block)
    random = np.random.default_rng(0)
    seeds = random.standard_normal((40, 8))
    near = seeds[random.integers(0, 40, 60)] + 0.15 * random.standard_normal((60, 8))
    vectors = unit(random.permutation(np.concatenate([seeds, near])))
    stay, gone = [], {}
    for row, vector in enumerate(vectors):
        likes = [float(vector @ vectors[other]) for other in stay]
        if likes and max(likes) >= 0.95:
            gone[row] = max(likes)
        else:
            stay.append(row)
    got = {row: (of, cosine) for row, of, cosine in first_of_alike(vectors, 0.95)}
    assert got.keys() == gone.keys() and gone
    for row, (of, cosine) in got.items():
        assert of in stay and of < row
        assert cosine == pytest.approx(gone[row], abs=1e-5)


def test_a_picture_without_a_vector_goes():
    vectors = unit(np.eye(3, 4) + 0.0)
    vectors[1] = 0
    one = EmbeddingDuplicates(0.9, lambda rows: vectors[rows], {})
    assert [(row, drop.reason) for row, drop in one.judge_all(np.arange(3))] == [
        (1, "not-an-image")
    ]
