"""MMFMPipeline draws what the model draws, and keeps the promises of a diffusers pipeline."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from mmfm.errors import InputError, TextError
from mmfm.shapes import Embeddings

PROMPTS = ["a red circle", "tree"]
SOME = {"num_inference_steps": 3, "guidance_scale": 2.5}
STEPS = {"num_steps": 3, "guidance_scale": 2.5}
SAME = {**STEPS, "precision": "fp32"}  # a pipeline works in the precision that its parts have


def arrays(pictures):
    return np.stack([np.asarray(picture) for picture in pictures])


def test_a_seed_gives_the_pictures_of_generate(model, pipe):
    wanted = model.generate(PROMPTS, num_images=2, seed=7, output="np", **SAME)
    made = pipe(
        PROMPTS, num_images_per_prompt=2, generator=pipe.generators(7, 2, num_prompts=2), **SOME
    )
    assert np.array_equal(arrays(made.images), wanted)


def test_a_negative_prompt_and_no_guidance_do_as_in_generate(model, pipe):
    for ours, theirs in (
        ({"negative_prompt": "blue", **SAME}, {"negative_prompt": "blue", **SOME}),
        ({**SAME, "guidance_scale": 1.0}, {**SOME, "guidance_scale": 1.0}),
    ):
        wanted = model.generate(PROMPTS[0], seed=1, output="np", **ours)
        made = pipe(PROMPTS[0], generator=pipe.generators(1), **theirs).images
        assert np.array_equal(arrays(made), wanted)


@torch.inference_mode()
def test_image_vectors_are_read_through_their_own_port(model, pipe):
    vectors = torch.from_numpy(model.embed_texts(PROMPTS))
    seeds = [g.initial_seed() for g in pipe.generators(4, 1, num_prompts=2)]
    wanted = model.decoder.sample(Embeddings(vectors), seeds, **STEPS)
    made = pipe(
        image_embeds=3 * vectors, output_type="pt", generator=pipe.generators(4, 1, 2), **SOME
    ).images
    assert torch.allclose(made, (wanted.clamp(-1, 1) + 1) / 2, atol=1e-5)
    # beside a text, the vector changes the picture, and so does the text
    both, other_text, other_vector = (
        pipe(text, image_embeds=row, output_type="pt", generator=pipe.generators(4), **SOME).images
        for text, row in (("tree", vectors[:1]), ("a boat", vectors[:1]), ("tree", vectors[1:]))
    )
    assert not torch.allclose(both, other_text, atol=1e-3)
    assert not torch.allclose(both, other_vector, atol=1e-3)


def test_one_generator_moves_on_and_latents_are_the_noise_itself(one_pipe):
    generator = torch.Generator().manual_seed(0)
    first, second = (
        one_pipe("tree", generator=generator, output_type="np", **SOME).images for _ in range(2)
    )
    assert not np.allclose(first, second)
    noise = torch.randn(1, 48, 8, 8, generator=torch.Generator().manual_seed(0))
    again = one_pipe("tree", latents=noise, output_type="np", **SOME).images
    assert np.allclose(again, first, atol=1e-6)


def test_outputs_are_those_of_diffusers(model, pipe):
    given = {"generator": pipe.generators(0, 2), "num_images_per_prompt": 2, **SOME}
    made = {
        kind: pipe("tree", output_type=kind, **{**given, "generator": pipe.generators(0, 2)}).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert [p.size for p in made["pil"]] == [(32, 32)] * 2
    assert made["np"].shape == (2, 32, 32, 3) and 0 <= made["np"].min() <= made["np"].max() <= 1
    assert torch.allclose(made["pt"].permute(0, 2, 3, 1), torch.from_numpy(made["np"]))
    assert np.abs(arrays(made["pil"]) / 255 - made["np"]).max() <= 0.5 / 255 + 1e-6
    config = model.config.decoder
    assert made["latent"].shape == (2, config.channels, config.map_size, config.map_size)
    with torch.inference_mode():
        drawn = model.decoder.space.decode(made["latent"])
    assert torch.allclose((drawn.clamp(-1, 1) + 1) / 2, made["pt"], atol=1e-5)
    as_tuple = pipe("tree", return_dict=False, output_type="np", **given)
    assert isinstance(as_tuple, tuple) and np.array_equal(as_tuple[0], made["np"])


def test_the_call_has_the_standard_names(one_pipe):
    mine = inspect.signature(type(one_pipe).__call__).parameters
    theirs = inspect.signature(StableDiffusionPipeline.__call__).parameters
    standard = [
        "prompt", "height", "width", "num_inference_steps", "guidance_scale", "negative_prompt",
        "num_images_per_prompt", "generator", "latents", "output_type", "return_dict",
        "callback_on_step_end", "callback_on_step_end_tensor_inputs",
    ]  # fmt: skip
    assert [name for name in theirs if name in standard] == standard
    assert [name for name in mine if name in standard] == standard


def test_the_models_own_steps_and_guidance_are_the_default(model, pipe):
    wanted = model.generate("tree", seed=2, output="np", precision="fp32")
    done = []

    def count(pipe, step, timestep, tensors):
        done.append(step)

    made = pipe("tree", generator=pipe.generators(2), callback_on_step_end=count).images
    assert np.array_equal(arrays(made), wanted)
    assert len(done) == pipe.num_timesteps == model.config.generation["num_steps"]
    assert pipe.guidance_scale == model.config.generation["guidance_scale"]


def test_a_callback_sees_and_changes_the_run(one_pipe):
    told = []

    def look(pipe, step, timestep, tensors):
        told.append((step, float(timestep), tuple(tensors["latents"].shape)))
        return tensors

    def draw(callback=None):
        return one_pipe(
            "tree", generator=one_pipe.generators(0), callback_on_step_end=callback,
            output_type="np", **SOME,
        ).images  # fmt: skip

    plain = draw()
    assert np.array_equal(draw(look), plain)
    assert [(step, shape) for step, _, shape in told] == [(i, (1, 48, 8, 8)) for i in range(3)]
    assert all(a > b for a, b in itertools.pairwise([time for _, time, _ in told]))

    def clear(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    def unguided(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        return tensors

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return tensors

    changed = [draw(change) for change in (clear, unguided, stop)]
    for one, two in itertools.combinations([plain, *changed], 2):
        assert not np.allclose(one, two, atol=1e-3)
    assert np.array_equal(draw(), plain)  # nothing of it stays


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize(
    ("other", "settings"),
    [
        (FlowMatchEulerDiscreteScheduler, {}),
        (FlowMatchHeunDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, FLOW),
        (UniPCMultistepScheduler, FLOW),
    ],
)
def test_schedulers_are_swapped_and_agree_in_the_limit(one_pipe, other, settings):
    """Solvers of one flow arrive at one picture when their steps are small."""
    settings = settings and {**settings, "flow_shift": one_pipe.scheduler.config.shift}

    def draw(num_steps):
        return one_pipe(
            "tree", generator=one_pipe.generators(0), output_type="np", guidance_scale=1.0,
            num_inference_steps=num_steps,
        ).images  # fmt: skip

    wanted = draw(64)
    one_pipe.scheduler = other.from_config(one_pipe.scheduler.config, **settings)
    assert one_pipe.config["scheduler"] == ("diffusers", other.__name__)
    few, many = (np.abs(draw(n) - wanted).mean() for n in (2, 64))
    assert many < 0.04
    assert other is FlowMatchEulerDiscreteScheduler or many < few / 3


def test_a_scheduler_that_follows_no_flow_is_refused(one_pipe):
    one_pipe.scheduler = DDIMScheduler.from_config(one_pipe.scheduler.config)
    with pytest.raises(InputError, match="DDIMScheduler does not follow a flow"):
        one_pipe("tree")


def test_it_moves_and_takes_another_precision(tiny_bundle):
    import mmfm

    pipe = mmfm.load(tiny_bundle, device="cpu").to_diffusers()
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        torch.nn.init.normal_(pipe.unet.network.out.weight, std=0.05)
    single = pipe("tree", generator=pipe.generators(0), output_type="np", **SOME).images
    assert pipe.to("cpu") is pipe and pipe.device.type == "cpu"
    pipe.to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    half = pipe("tree", generator=pipe.generators(0), output_type="np", **SOME).images
    assert 0 < np.abs(half - single).max() < 0.1


def test_progress_is_shown_unless_it_is_turned_off(tiny_model, capsys):
    pipe = tiny_model.to_diffusers()
    assert isinstance(pipe, DiffusionPipeline)
    pipe.set_progress_bar_config(desc="drawing it")
    pipe("tree", **SOME)
    assert "drawing it" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe("tree", **SOME)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "empty"),
        ({"prompt": 5}, "text"),
        ({"prompt": "tree", "height": 64}, "32 x 32"),
        ({"prompt": "tree", "output_type": "jpeg"}, "output_type"),
        ({"prompt": "tree", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "tree", "latents": torch.zeros(2, 48, 8, 8)}, "latents"),
        ({"prompt": "tree", "image_embeds": torch.zeros(1, 7)}, "image_embeds"),
        ({"prompt": PROMPTS, "image_embeds": torch.zeros(3, 32)}, "3 image_embeds for 2"),
        ({"prompt": PROMPTS, "negative_prompt": ["a", "b", "c"]}, "3 negative prompts for 2"),
        ({"prompt": PROMPTS, "generator": [torch.Generator()]}, "1 generators for 2"),
        ({"prompt": "tree", "callback_on_step_end_tensor_inputs": ["noise"]}, "noise"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(one_pipe, given, said):
    with pytest.raises(InputError, match=said) as caught:
        one_pipe(**given)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, TextError) or given.get("prompt") != ""
