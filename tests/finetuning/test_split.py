"""Which pictures are held out: by content, near copies together."""

import io

import numpy as np
import pytest

from mmfm.data.sample import Sample
from mmfm.finetuning.pictures import Pictures
from mmfm.finetuning.split import halves, split
from mmfm.preprocess.transform import Preprocess
from tests.finetuning.conftest import drawing

PREPROCESS = Preprocess(image_size=32)


def pictures(images):
    samples = []
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        samples.append(Sample(f"{number:03d}", buffer.getvalue(), ("a shape",), {}))
    return Pictures.of(samples, PREPROCESS)


@pytest.fixture
def every():
    return pictures([drawing(n)[0] for n in range(24)])


def keys_of(found, rows):
    return {found.keys[row] for row in rows}


def test_the_two_sides_share_nothing_and_lose_nothing(every):
    found = split(every, 0.25)
    assert sorted([*found.train, *found.held_out]) == list(range(24))
    assert 4 <= len(found.held_out) <= 12


def test_the_order_of_the_folder_does_not_matter(every):
    turned = every.select(np.arange(24)[::-1])
    before, after = split(every, 0.25), split(turned, 0.25)
    assert keys_of(every, before.held_out) == keys_of(turned, after.held_out)


def test_a_picture_keeps_its_side_when_others_come(every):
    few = every.select(range(16))
    old, new = split(few, 0.5), split(every, 0.5)
    alone = keys_of(few, old.held_out) & keys_of(every, new.train)
    assert not alone - {every.keys[row] for pair in new.pairs for row in pair}


def test_a_near_copy_is_on_the_side_of_its_original():
    originals = [drawing(n)[0] for n in range(24)]
    copies = [image.resize((80, 80)).resize((44, 44)) for image in originals]
    found = pictures([*originals, *copies])
    for share in (0.1, 0.3, 0.5):
        parts = split(found, share)
        held = set(parts.held_out.tolist())
        assert len(parts.pairs) >= 24
        assert all((kept in held) == (copy in held) for kept, copy in parts.pairs)
    assert split(found, 0.5).num_leaks > 0


def test_halves_are_equal_and_fixed(every):
    one, other = halves(every.keys, "a")
    assert (len(one), len(other)) == (12, 12)
    assert sorted(one + other) == list(range(24))
    assert halves(every.keys, "a") == (one, other) != halves(every.keys, "b")
    more, few = halves(every.keys, "a", most=5)
    assert len(few) == 5 and set(few) < set(other) and sorted(more + few) == list(range(24))
