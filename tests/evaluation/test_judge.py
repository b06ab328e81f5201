"""The judge: what it says of a picture depends on that picture alone, and survives its file."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmfm
from mmfm.data.sample import Sample
from mmfm.errors import DataError, ImageError, ModelError
from mmfm.evaluation.judge import Judge, JudgeConfig, JudgeNetwork, joined
from mmfm.preprocess.images import to_pixels

GALLERY = Path(mmfm.__file__).parent / "gallery"


def test_batch_mates_change_nothing(tiny_judge, shape_samples):
    images = [sample.image for sample in shape_samples]
    whole = tiny_judge.look(images)
    parts = joined(tiny_judge.look(some) for some in (images[:1], images[1:12], images[12:]))
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    assert (whole.features >= 0).all()
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_tensors_and_pictures_are_seen_alike(tiny_judge, shape_samples):
    pictures = [Image.open(io.BytesIO(s.image)) for s in shape_samples[:4]]
    tensors = torch.from_numpy(np.stack([to_pixels(p.convert("RGB"), 32) for p in pictures]))
    seen = tiny_judge.look_at(tensors).probabilities
    np.testing.assert_allclose(tiny_judge.look(pictures).probabilities, seen, atol=1e-6)
    arrays = np.stack([np.asarray(p.convert("RGB")) for p in pictures])
    np.testing.assert_allclose(tiny_judge.look(arrays).probabilities, seen, atol=1e-6)


def test_ranks_count_the_classes_before_the_right_one(tiny_judge, shape_samples):
    look = tiny_judge.look([sample.image for sample in shape_samples])
    classes = np.array([tiny_judge.class_of(sample) for sample in shape_samples])
    slow = [
        sum(p[other] >= p[own] for other in range(4) if other != own)
        for p, own in zip(look.probabilities, classes)
    ]
    assert look.ranks(classes).tolist() == slow
    assert (look.ranks(classes) == 0).mean() > 0.8
    assert look.chances(classes)[3] == look.probabilities[3, classes[3]]


def test_its_file_keeps_what_it_says(tiny_judge, shape_samples, tmp_path):
    images = [sample.image for sample in shape_samples]
    once = Judge.load(tiny_judge.save(tmp_path / "once.safetensors"))
    again = Judge.load(once.save(tmp_path / "again.safetensors"))
    assert (once.classes, once.origin, once.config) == (
        tiny_judge.classes, tiny_judge.origin, tiny_judge.config
    )  # fmt: skip
    before, after = tiny_judge.look(images).probabilities, once.look(images).probabilities
    np.testing.assert_allclose(after, before, atol=0.01)  # halves
    np.testing.assert_array_equal(again.look(images).probabilities, after)
    assert again.hash == once.hash != tiny_judge.hash


def test_its_hash_is_that_of_what_it_says(tiny_judge):
    network = JudgeNetwork(tiny_judge.config)
    network.load_state_dict(tiny_judge.network.state_dict())
    same = Judge(tiny_judge.config, network, tiny_judge.classes)
    assert same.hash == tiny_judge.hash
    renamed = Judge(tiny_judge.config, network, tiny_judge.classes[::-1])
    assert renamed.hash != tiny_judge.hash
    with torch.no_grad():
        network.classify.bias[0] += 1
    assert Judge(tiny_judge.config, network, tiny_judge.classes).hash != tiny_judge.hash


def test_names_it_knows(tiny_judge):
    def sample(**meta):
        return Sample("k", b"", ("a caption",), meta)

    assert tiny_judge.class_of(sample(name="cross")) == 2
    assert tiny_judge.class_of(sample(name="cross dark skin tone", concept="cross")) is None
    assert tiny_judge.class_of(Sample("k", b"", ("bar", "a bar"))) == 3
    assert tiny_judge.class_of(Sample("k", b"")) is None
    assert tiny_judge.number("bar") == 3
    with pytest.raises(DataError, match="no 'sphere'"):
        tiny_judge.number("sphere")


def test_what_is_no_judge_is_refused(tiny_judge, tmp_path):
    with pytest.raises(ModelError, match="cannot be read as a judge"):
        Judge.load(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(ModelError, match="not a judge of format"):
        Judge.load(tmp_path / "bad.safetensors")
    (tmp_path / "text.safetensors").write_text("not a judge")
    with pytest.raises(ModelError, match="cannot be read as a judge"):
        Judge.load(tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match="different names"):
        Judge(tiny_judge.config, tiny_judge.network, ["a", "b", "c", "a"])
    with pytest.raises(ImageError):
        tiny_judge.look([b"no picture"])


def test_the_network_takes_any_size_its_patches_fit():
    network = JudgeNetwork(JudgeConfig(num_classes=3, widths=(8, 16), depths=(1, 1))).eval()
    for size in (16, 32, 64):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 3)
    with pytest.raises(ValueError, match="images has shape"):
        network(torch.zeros(2, 1, 32, 32))


def test_the_one_that_ships_names_real_drawings_it_was_not_trained_on():
    """The gallery is of the test split; chance is one in nearly two thousand."""
    judge = Judge.load()
    assert judge.origin["split"] == "train"
    assert judge.config.image_size == 64
    lines = (GALLERY / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    known = [(GALLERY / r["file_name"], r["text"]) for r in rows if r["text"] in judge.classes]
    assert len(known) > 100
    look = judge.look([path for path, _ in known])
    right = look.ranks(np.array([judge.number(name) for _, name in known])) == 0
    assert right.mean() > 0.3
