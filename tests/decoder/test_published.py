"""Published decoders of CLIP embeddings, tiny and in their real formats, drawn from by a model."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, KandinskyV22CombinedPipeline, UNet2DModel

import mmfm
from mmfm.config import ModelConfig
from mmfm.decoder.published import load_published
from mmfm.encoders.backbone import Backbone
from mmfm.errors import ModelError
from mmfm.model import MMFM
from tests.decoder import tiny_published as tiny

TEXTS = ["a red circle", "two trees on a hill"]
SOME = {"num_steps": 2, "guidance_scale": 3.0}
KINDS = ("unclip", "unclip_of_images", "kandinsky")


def backbone(seed=0):
    torch.manual_seed(seed)
    config = tiny.backbone_config()
    return MMFM(ModelConfig(name="clip", backbone=config), Backbone.from_config(config),
                device="cpu")  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A backbone without heads, saved as open_clip saves, and loaded by its name."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    return mmfm.load(f"local-dir:{backbone().save_pretrained(folder)}", device="cpu")


@pytest.fixture(scope="module")
def published(clip, tmp_path_factory):
    """Folder of each published decoder, saved by diffusers; {kind: (decoder, prior)}."""
    root = tmp_path_factory.mktemp("published")
    towers, words = clip.backbone.towers, tiny.tokenizer(root / "words")
    torch.manual_seed(1)
    made = {
        "unclip": tiny.unclip(towers, words),
        "unclip_of_images": tiny.unclip_of_images(towers, words),
        "kandinsky": tiny.kandinsky(),
        "prior": tiny.kandinsky_prior(towers, words),
    }
    for name, pipeline in made.items():
        pipeline.save_pretrained(root / name)
    found = {name: (root / name, None) for name in ("unclip", "unclip_of_images")}
    return {**found, "kandinsky": (root / "kandinsky", root / "prior")}


@pytest.fixture(scope="module")
def drawing(clip, published):
    """The backbone with each decoder, loaded from its folder."""
    made = {}
    for kind, (folder, prior) in published.items():
        made[kind] = clip.with_decoder(folder, prior=prior)
    return made


@pytest.fixture(params=KINDS)
def model(request, drawing):
    return drawing[request.param]


@pytest.fixture(scope="module")
def vectors(clip, ellipses):
    return torch.from_numpy(clip.embed_images(ellipses[:3]))


def test_pictures_are_generated_from_texts(model):
    made = model.generate(TEXTS, num_images=2, seed=0, output="np", **SOME)
    assert made.shape == (4, 16, 16, 3)
    assert np.array_equal(model.generate(TEXTS, num_images=2, seed=0, output="np", **SOME), made)
    for one, other in ((0, 1), (0, 2)):  # another seed, another text
        assert not np.array_equal(made[one], made[other])
    away = model.generate(TEXTS[0], negative_prompt="blue", seed=0, output="np", **SOME)
    assert not np.array_equal(away[0], made[0])


def test_its_own_steps_and_guidance_are_the_default(model):
    kandinsky = "Kandinsky" in type(model.to_diffusers()).__name__
    wanted = {"num_steps": 100, "guidance_scale": 4.0} if kandinsky else {
        "num_steps": 20, "guidance_scale": 10.0}  # fmt: skip
    assert model.config.generation == wanted


def test_a_picture_does_not_depend_on_its_batch(model, vectors):
    decoder = model.decoder
    together = decoder.decode(vectors, [4, 5, 6], **SOME)
    texts = [TEXTS[0], TEXTS[1], TEXTS[0]]
    drawn = decoder.draw(texts, [4, 5, 6], **SOME)
    for row in range(3):
        alone = decoder.decode(vectors[row : row + 1], [4 + row], **SOME)
        assert torch.allclose(alone[0], together[row], atol=1e-4)
        alone = decoder.draw(texts[row : row + 1], [4 + row], **SOME)
        assert torch.allclose(alone[0], drawn[row], atol=1e-4)
    decoder.batch_size, before = 2, decoder.batch_size
    assert torch.allclose(decoder.decode(vectors, [4, 5, 6], **SOME), together, atol=1e-4)
    decoder.batch_size = before


def test_vectors_decide_the_picture(model, vectors):
    made = model.decoder.decode(vectors, [0, 0, 0], **SOME)
    assert made.shape == (3, 3, 16, 16)
    assert made.abs().max() <= 1
    assert not torch.allclose(made[0], made[1], atol=1e-3)


def test_vectors_are_as_long_as_those_it_was_trained_on(model, vectors, monkeypatch):
    assert model.decoder.length == pytest.approx(8.0, rel=1e-4)  # as tiny.statistics says
    seen = []
    inner = type(model.decoder)._decode

    def look(self, given, *rest):
        seen.append(given)
        return inner(self, given, *rest)

    monkeypatch.setattr(type(model.decoder), "_decode", look)
    model.decoder.decode(vectors, [0, 1, 2], **SOME)
    assert torch.allclose(seen[0], 8.0 * vectors, rtol=1e-4)


def test_it_is_the_published_pipeline_that_draws(drawing, published, vectors):
    """What mmfm draws is what diffusers draws when it is given the same vectors and noise."""

    def noise():
        return [torch.Generator().manual_seed(seed) for seed in (7, 8)]

    model = drawing["unclip_of_images"]
    wanted = model.to_diffusers()(
        prompt=["", ""], image_embeds=8.0 * vectors[:2], generator=noise(), output_type="pt",
        num_inference_steps=2, guidance_scale=3.0,
    ).images  # fmt: skip
    made = model.decoder.decode(vectors[:2], [7, 8], **SOME)
    assert torch.allclose((made + 1) / 2, wanted, atol=1e-3)

    model = drawing["kandinsky"]
    prior = model.decoder.prior
    given = prior(TEXTS, generator=noise())
    wanted = model.to_diffusers()(
        **given, height=16, width=16, generator=noise(), output_type="pt", num_inference_steps=2,
        guidance_scale=3.0,
    ).images  # fmt: skip
    made = model.decoder.draw(TEXTS, [7, 8], **SOME)
    assert torch.allclose(made, wanted.clamp(-1, 1), atol=1e-4)

    model = drawing["unclip"]
    wanted = model.to_diffusers()(
        TEXTS, generator=noise(), output_type="pt", num_inference_steps=2, guidance_scale=3.0
    ).images
    assert torch.allclose((model.decoder.draw(TEXTS, [7, 8], **SOME) + 1) / 2, wanted, atol=1e-4)


def test_progress_counts_the_steps_that_draw(model, vectors):
    done = []
    model.decoder.draw(TEXTS, [0, 1], progress=done.append, **SOME)
    model.decoder.decode(vectors, [0, 1, 2], progress=done.append, **SOME)
    assert done == [1, 2, 1, 2]


def test_the_best_of_several_is_kept(drawing):
    model = drawing["kandinsky"]
    best = model.generate(TEXTS[0], seed=0, rerank=2, **SOME)
    assert best[0].size == (16, 16)


def test_a_decoder_is_given_when_a_model_is_loaded(clip, published, tmp_path):
    folder, prior = published["kandinsky"]
    name = clip.save_pretrained(tmp_path / "clip")
    model = mmfm.load(name, decoder=folder, prior=prior, device="cpu")
    assert model.generate(TEXTS[0], seed=0, **SOME)[0].size == (16, 16)
    assert "generate" in model.info()["skills"]
    assert clip.decoder is None  # the model it was made of is as it was
    with pytest.raises(ModelError, match="decoder="):
        model.save_pretrained(tmp_path / "whole")
    with pytest.raises(ModelError, match="prior goes with decoder"):
        mmfm.load(name, prior=prior)


def test_kandinsky_in_one_folder(clip, drawing, tmp_path):
    apart = drawing["kandinsky"].decoder
    parts = {f"prior_{name}": part for name, part in apart.prior.components.items()}
    whole = KandinskyV22CombinedPipeline(**apart.pipeline.components, **parts)
    whole.save_pretrained(tmp_path / "whole")
    model = clip.with_decoder(tmp_path / "whole")
    wanted = apart.draw(TEXTS, [0, 1], **SOME)
    assert torch.allclose(model.decoder.draw(TEXTS, [0, 1], **SOME), wanted, atol=1e-5)


def pipelines(model):
    """What a decoder was made of, which it can be made of again."""
    return {"source": model.decoder.pipeline, "prior": getattr(model.decoder, "prior", None)}


def test_a_decoder_of_another_space_is_refused(model):
    stranger = backbone(seed=9)
    with pytest.raises(ModelError, match="another space") as caught:
        stranger.with_decoder(**pipelines(model))
    assert "\n" not in str(caught.value)
    assert stranger.with_decoder(**pipelines(model), check=False).decoder is not None


def test_a_decoder_of_another_width_is_refused(model):
    config = tiny.backbone_config(width=24)
    other = MMFM(
        ModelConfig(name="narrow", backbone=config), Backbone.from_config(config), device="cpu"
    )
    with pytest.raises(ModelError, match="reads vectors of 32 numbers, narrow gives 24"):
        other.with_decoder(**pipelines(model))


def test_what_is_no_published_decoder_is_refused_in_one_sentence(
    clip, drawing, published, tmp_path
):
    noise = UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    DDPMPipeline(noise, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    folder, _ = published["kandinsky"]
    parts = pipelines(drawing["kandinsky"])
    for given, said in (
        ({"source": tmp_path / "ddpm"}, "DDPMPipeline"),
        ({"source": tmp_path / "nothing"}, "model_index.json"),
        ({"source": parts["source"]}, "its prior"),
        ({"source": parts["source"], "prior": folder}, "KandinskyV22PriorPipeline"),
        ({**pipelines(drawing["unclip"]), "prior": parts["prior"]}, "leave prior out"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            clip.with_decoder(**given)
        assert "\n" not in str(caught.value)


def test_a_prior_without_statistics_is_refused(published):
    folder, prior = published["kandinsky"]
    empty = load_published(folder, prior).prior
    with torch.no_grad():
        empty.prior.clip_mean.zero_()
        empty.prior.clip_std.zero_()
    with pytest.raises(ModelError, match="how long"):
        load_published(folder, empty)
