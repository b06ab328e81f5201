"""A tiny CLIP in open_clip's form and in Hugging Face's, and published decoders of its vectors.

The weights are random, the formats real: what `save_pretrained` of diffusers writes. Both forms of
the CLIP hold the same numbers, as published conversions do.
"""

import json

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

WIDTH, TOKENS = 32, 16  # of vectors and towers (a prior wants them equal); of a text
PREPROCESS = {
    "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": [32, 32],
    "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
}  # fmt: skip


def backbone_config(width=WIDTH):
    """A plain CLIP as open_clip describes it."""
    from mmfm.config import BackboneConfig

    inside = {"width": WIDTH, "layers": 1}
    model = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **inside},
        "text_cfg": {"context_length": TOKENS, "vocab_size": 49408, "heads": 2, **inside},
    }
    return BackboneConfig(model_cfg=model, preprocess_cfg=PREPROCESS)


def _blocks(state, ours, theirs):
    """Weights of the one transformer block, under the other's names."""
    kept = {}
    for kind in ("weight", "bias"):
        parts = state[f"{ours}.attn.in_proj_{kind}"].chunk(3)
        for name, value in zip(("q", "k", "v"), parts, strict=True):
            kept[f"{theirs}.self_attn.{name}_proj.{kind}"] = value
        for name, other in (
            ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ):  # fmt: skip
            kept[f"{theirs}.{other}.{kind}"] = state[f"{ours}.{name}.{kind}"]
    return kept


def text_model(towers, kind=CLIPTextModelWithProjection):
    """The text tower in Hugging Face's form; a plain CLIPTextModel is another one, at random."""
    made = kind(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=1,
            num_attention_heads=2, projection_dim=WIDTH, max_position_embeddings=TOKENS,
            hidden_act="gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )
    ).eval()  # fmt: skip
    if kind is CLIPTextModel:
        return made
    state = towers.state_dict()
    wanted = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T,
        **_blocks(state, "transformer.resblocks.0", "text_model.encoder.layers.0"),
    }
    made.load_state_dict(wanted)
    return made


def vision_model(towers):
    """The image tower in Hugging Face's form."""
    state = towers.state_dict()
    wanted = {
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "visual_projection.weight": state["visual.proj"].T,
        **_blocks(state, "visual.transformer.resblocks.0", "vision_model.encoder.layers.0"),
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for kind in ("weight", "bias"):
            wanted[f"vision_model.{theirs}.{kind}"] = state[f"visual.{ours}.{kind}"]
    made = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=1,
            num_attention_heads=2, projection_dim=WIDTH, image_size=32, patch_size=8,
            hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    made.load_state_dict(wanted)
    return made


def tokenizer(folder):
    """CLIP's byte pairs, from open_clip's copy, in the files that transformers reads."""
    pairs = open_clip.SimpleTokenizer()
    folder.mkdir()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(word, word): number for word, number in pairs.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in pairs.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    )
    return CLIPTokenizer.from_pretrained(folder)


def image_processor():
    return CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
        image_mean=PREPROCESS["mean"], image_std=PREPROCESS["std"],
    )  # fmt: skip


def prior(towers, statistics):
    """Text vectors to image vectors; what it gives has these (mean, deviation)."""
    made = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=WIDTH,
        num_embeddings=TOKENS, additional_embeddings=4,
    )  # fmt: skip
    made.clip_mean.data[:], made.clip_std.data[:] = statistics
    return made


def unet(**settings):
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, attention_head_dim=4, **settings,
    )  # fmt: skip


def vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
    )  # fmt: skip


def statistics(length=8.0):
    """Mean and deviation (1, D) of vectors whose root mean square length is `length`."""
    mean, deviation = torch.randn(1, WIDTH), torch.rand(1, WIDTH)
    factor = length / (mean.square() + deviation.square()).sum().sqrt()
    return mean * factor, deviation * factor


def normaliser():
    made = StableUnCLIPImageNormalizer(embedding_dim=WIDTH)
    made.mean.data[:], made.std.data[:] = statistics()
    return made


def _unclip_parts(words):
    return {
        "image_normalizer": normaliser(),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": words, "text_encoder": text_model(None, CLIPTextModel),
        "unet": unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH,
            use_linear_projection=True, mid_block_type=None,
        ),
        "scheduler": DDIMScheduler(prediction_type="v_prediction", set_alpha_to_one=False),
        "vae": vae(),
    }  # fmt: skip


def unclip(towers, words):
    """Stable unCLIP with the prior that turns texts into vectors."""
    return StableUnCLIPPipeline(
        prior_tokenizer=words, prior_text_encoder=text_model(towers),
        prior=prior(towers, statistics()),
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000
        ),
        **_unclip_parts(words),
    )  # fmt: skip


def unclip_of_images(towers, words):
    """Stable unCLIP as it was published for Stable Diffusion 2.1: pictures and texts in."""
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=image_processor(), image_encoder=vision_model(towers),
        **_unclip_parts(words),
    )  # fmt: skip


def kandinsky(width=WIDTH):
    """Kandinsky 2.2, the decoder."""
    return KandinskyV22Pipeline(
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=8, layers_per_block=1,
            block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", addition_embed_type="image",
            encoder_hid_dim=width, encoder_hid_dim_type="image_proj", cross_attention_dim=16,
            resnet_time_scale_shift="scale_shift", class_embed_type=None,
        ),
        scheduler=DDPMScheduler(
            beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
            variance_type="learned_range", prediction_type="epsilon",
        ),
        movq=VQModel(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
            num_vq_embeddings=8, norm_type="spatial", vq_embed_dim=4,
        ),
    )  # fmt: skip


def kandinsky_prior(towers, words):
    """Kandinsky 2.2, the prior."""
    return KandinskyV22PriorPipeline(
        prior=prior(towers, statistics()), image_encoder=vision_model(towers),
        text_encoder=text_model(towers), tokenizer=words,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000,
            clip_sample=True, clip_sample_range=10.0,
        ),
        image_processor=image_processor(),
    )  # fmt: skip
