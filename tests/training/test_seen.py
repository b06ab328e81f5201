"""Heads learn the same from a store as from pixels: `SeenInStore` equals `SeenInMemory`."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.data.dataset import ShardDataset
from mmfm.data.packed import PackedPictures
from mmfm.data.sample import Sample
from mmfm.data.shards import read_shards, write_shards
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.errors import DataError, ModelError
from mmfm.jobs.embed import embed_shards, image_keys, open_store
from mmfm.model import MMFM
from mmfm.presets import preset
from mmfm.shapes import Embeddings
from mmfm.training.caption import CaptionData, CaptionTask
from mmfm.training.flow import FlowData, FlowTask
from mmfm.training.reconstruction import ReconstructionData, ReconstructionTask
from mmfm.training.seen import SeenInMemory, SeenInStore, tokens_of


@pytest.fixture(scope="module")
def model():
    config = preset("tiny", space="grid")
    return MMFM.from_config(config, texts=["red circle"], device="cpu")


def shards_of(drawings, folder, mode):
    """The drawings as PNG: "RGBA" as they are, "RGB" on white."""
    samples = []
    for row, pixels in enumerate(drawings.pixels):
        image = Image.fromarray(pixels)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB") if mode == "RGB" else image
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        captions, meta = drawings.captions[row], drawings.meta[row]
        samples.append(Sample(f"{row:03d}", buffer.getvalue(), captions, meta))
    write_shards(samples, folder, max_count=5)
    return folder


@pytest.fixture
def both(model, drawings, tmp_path):
    """The same twelve drawings: pictures, what the model says of them, what the store says."""
    folder = shards_of(drawings, tmp_path / "shards", "RGB")
    embed_shards(model, folder, tmp_path / "store", kinds=("pooled", "grid"))
    pictures = PackedPictures.read(read_shards(folder), 32)
    direct = SeenInMemory.of_pictures(model.backbone, pictures)
    stored = SeenInStore(open_store(tmp_path / "store", model), pictures.keys)
    return pictures, direct, stored


def near(one, two):
    return torch.allclose(one, two, rtol=2**-9, atol=1e-4)


def test_the_store_says_what_the_tower_says(both):
    pictures, direct, stored = both
    assert len(direct) == len(stored) == len(pictures) == 12
    for rows in (np.arange(12), np.array([7, 0, 7]), np.array([11])):
        one, two = direct.take(rows), stored.take(rows)
        assert near(one.pooled, two.pooled)
        # both keep tokens in half precision; the last bit may differ between batch sizes
        assert torch.allclose(one.tokens, two.tokens, rtol=2**-9, atol=1e-3)
        assert (
            stored.take(rows, grids=False).tokens is direct.take(rows, grids=False).tokens is None
        )


def test_drawings_with_alpha_are_seen_on_white_within_a_grey_level(model, drawings, tmp_path):
    """Pillow rounds the composite to bytes, `on_ground` does not."""
    folder = shards_of(drawings, tmp_path / "shards", "RGBA")
    embed_shards(model, folder, tmp_path / "store", kinds=("pooled", "grid"))
    pictures = PackedPictures.read(read_shards(folder), 32)
    direct = SeenInMemory.of_pictures(model.backbone, pictures).take(np.arange(12))
    store = open_store(tmp_path / "store", model)
    stored = SeenInStore(store, pictures.keys).take(np.arange(12))
    assert (direct.pooled * stored.pooled).sum(dim=1).min() > 0.9999


def test_keys_of_the_shards_serve_as_those_of_the_pictures(both, model, tmp_path):
    _, _, stored = both
    dataset = ShardDataset.open(tmp_path / "shards")
    other = SeenInStore(stored.store, image_keys(dataset, stored.store))
    rows = np.array([4, 9])
    assert torch.equal(other.take(rows).pooled, stored.take(rows).pooled)
    assert torch.equal(other.take(rows).tokens, stored.take(rows).tokens)


@pytest.mark.parametrize("space", ["grid", "pixel"])
def test_the_flow_learns_the_same_from_both(both, model, space):
    pictures, direct, stored = both
    config = preset("tiny", space=space)
    torch.manual_seed(0)
    decoder = ImageDecoder(config.decoder, PixelDecoder(config.pixel_decoder))
    with torch.no_grad():
        for parameter in decoder.network.parameters():  # away from predicting zero
            parameter.add_(0.05 * torch.randn(parameter.shape))
        computed = FlowData(model.backbone, decoder, pictures)
        computed.fit_space()
        given = [FlowData(model.backbone, decoder, pictures, seen) for seen in (direct, stored)]
    rows = np.array([5, 0, 7, 7])
    for data in given:
        assert torch.allclose(data.maps(rows), computed.maps(rows), atol=2e-2)
        assert near(data.pooled(rows), computed.pooled(rows))
        losses = [
            FlowTask(decoder, one, one).loss(rows, torch.Generator().manual_seed(3))[0].item()
            for one in (data, computed)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_caption_head_and_pixel_decoder_learn_the_same_from_both(both, model):
    pictures, direct, stored = both
    vocabulary = Vocabulary.build([c[0] for c in pictures.captions], model.backbone.tokenizer)
    config = preset("tiny", caption_vocab_size=len(vocabulary))
    torch.manual_seed(0)
    captioner, pixels = Captioner(config.captioner), PixelDecoder(config.pixel_decoder)
    rows = np.array([5, 0, 7, 7, 2])
    losses, figures = [], []
    for seen in (direct, stored):
        captions = CaptionData(seen, pictures.captions, pictures.meta)
        drawn = ReconstructionData(seen, pictures)
        tasks = (
            CaptionTask(captioner, vocabulary, captions, captions),
            ReconstructionTask(pixels, drawn, drawn),
        )
        losses.append([t.loss(rows, torch.Generator().manual_seed(3))[0].item() for t in tasks])
        with torch.inference_mode():
            figures.append([task.evaluate(task.module)[0] for task in tasks])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for one, two in zip(*figures, strict=True):
        assert one.keys() == two.keys()
        assert one == pytest.approx(two, rel=2e-3)


def test_what_is_missing_is_told_before_the_first_step(both, model, tmp_path):
    pictures, _, stored = both
    keys = [*pictures.keys[:10], "0" * 64, "1" * 64]
    with pytest.raises(DataError, match=r"2 of 12 pictures are not in .*mmfm data embed"):
        SeenInStore(stored.store, keys)
    embed_shards(model, tmp_path / "shards", tmp_path / "pooled")
    bare = open_store(tmp_path / "pooled", model)
    with pytest.raises(DataError, match=r"12 of 12 grids of pictures .*--grids"):
        SeenInStore(bare, pictures.keys)
    assert SeenInStore(bare, pictures.keys, grids=False).take(np.arange(2)).tokens is None


def test_embeddings_of_other_data_are_refused(both, model):
    pictures, direct, _ = both
    fewer = pictures.select(np.arange(5))
    assert fewer.keys == pictures.keys[:5]
    with pytest.raises(DataError, match="of 12 pictures for a data set of 5"):
        ReconstructionData(direct, fewer)
    with pytest.raises(DataError, match="of 12 pictures for a data set of 5"):
        CaptionData(direct, fewer.captions, fewer.meta)
    with pytest.raises(DataError, match="of 12 pictures for a data set of 5"):
        FlowData(model.backbone, model.decoder, fewer, direct)


def test_a_tower_without_tokens_is_told():
    with pytest.raises(ModelError, match="gives no tokens"):
        tokens_of(Embeddings(torch.ones(2, 4)))
