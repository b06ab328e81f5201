"""A CoCa of random weights writes by its own decoder, step by step as open_clip does it whole."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.captioner.coca import CoCaHead, WholeVocabulary
from mmfm.config import BackboneConfig, ModelConfig
from mmfm.errors import InputError, ModelError
from mmfm.model import MMFM

CONFIG = {
    "embed_dim": 32, "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16,
                   "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5,
                   "output_tokens": True},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
                 "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2,
                       "layers": 2},
}  # fmt: skip


def coca(**changes):
    cfg = {**CONFIG, **changes}
    config = BackboneConfig(model_cfg=cfg, preprocess_cfg={"size": [32, 32]})
    torch.manual_seed(0)
    model = MMFM.from_config(ModelConfig(name="coca", backbone=config), device="cpu")
    with torch.no_grad():  # all of them, since open_clip leaves the output layer uninitialised
        for name, parameter in model.backbone.named_parameters():
            mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return coca()


@pytest.fixture
def pictures():
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


@torch.inference_mode()
def whole(model, images, ids):
    """open_clip's own logits of the token after the last."""
    out = model.backbone.towers(images, ids, output_labels=False)
    return out["logits"][:, -1]


@pytest.mark.parametrize("scaled", [False, True])
@torch.inference_mode()
def test_steps_equal_open_clips_own_forward_pass(scaled):
    more = {"ls_init_value": 0.7} if scaled else {}
    model = coca(
        text_cfg={**CONFIG["text_cfg"], **more}, multimodal_cfg={**CONFIG["multimodal_cfg"], **more}
    )
    head = CoCaHead(model.backbone.towers)
    images = torch.randn(3, 3, 32, 32)
    ids = torch.randint(1, 49000, (3, 9))
    ids[:, 0] = 49406
    for first in (1, 4):
        stepper = head.stepper(*head.memory(head.see(images)))
        logits = stepper.read(ids[:, :first])
        for place in range(first, 9):
            torch.testing.assert_close(logits, whole(model, images, ids[:, :place]), **LIKE)
            logits = stepper.read(ids[:, place : place + 1])


LIKE = {"atol": 1e-4, "rtol": 1e-4}


def test_captions_are_what_its_own_logits_choose(model, pictures):
    said = model.caption(pictures, max_tokens=6)
    [seen] = model.embedder.see(pictures, encode=lambda images: images_of(model, images))
    images = seen.tokens.view(3, 3, 32, 32)
    ids = torch.full((3, 1), 49406)
    for _ in range(6):
        logits = whole(model, images, ids).clone()
        logits[:, 49406] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    vocabulary = WholeVocabulary(model.backbone.tokenizer)
    assert said == [vocabulary.decode(row) for row in ids.tolist()]
    assert len(set(said)) > 1
    assert all(text.startswith("a dog") for text in model.caption(pictures, prompt="a dog"))
    assert len(model.caption(pictures[0], num_beams=3, num_captions=2)[0]) == 2


def images_of(model, images):
    """The pixels as tokens, to see what the tower is given."""
    from mmfm.shapes import Embeddings

    return Embeddings(torch.ones(len(images), 32), images.flatten(2))


def test_scores_are_the_mean_log_probability(model, pictures):
    text = "a red apple"
    scores = model.caption_score(pictures, [text] * 3)
    vocabulary = WholeVocabulary(model.backbone.tokenizer)
    ids = [vocabulary.start_id, *vocabulary.encode(text), vocabulary.end_id]
    [seen] = model.embedder.see(pictures, encode=lambda images: images_of(model, images))
    images = seen.tokens.view(3, 3, 32, 32)
    terms = []
    for place in range(1, len(ids)):
        log_p = whole(model, images, torch.tensor([ids[:place]] * 3)).log_softmax(-1)
        terms.append(log_p[:, ids[place]].numpy())
    assert scores == pytest.approx(np.mean(terms, axis=0), rel=1e-3)


def test_what_a_coca_cannot_do_is_said(model, pictures):
    with pytest.raises(InputError, match="tokens alone"):
        model.caption(embeddings=model.embed_images(pictures))
    with pytest.raises(ModelError, match="one width"):
        cfg = {**CONFIG["text_cfg"], "heads": 4}
        coca(text_cfg=cfg).caption(pictures)
    with pytest.raises(InputError, match="shorten"):
        model.caption(pictures, prompt="a " * 20)


def test_the_whole_vocabulary_keeps_the_tokenizers_ids(model):
    tokenizer = model.backbone.tokenizer
    vocabulary = WholeVocabulary(tokenizer)
    ids = tokenizer.encode("a red apple, 12!")
    assert vocabulary.encode("a red apple, 12!") == ids
    assert vocabulary.decode([vocabulary.start_id, *ids, vocabulary.end_id]) == "a red apple, 12!"
    assert len(vocabulary) == 49408
