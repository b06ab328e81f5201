"""A pipeline on disk: diffusers saves it, loads it, and offloads it by its own code."""

import json
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchHeunDiscreteScheduler
from diffusers.utils import dynamic_modules_utils

from mmfm.pipeline import MMFMPipeline

SOME = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red circle", "tree"]
    return pipe(prompts, generator=MMFMPipeline.generators(3, 1, 2), **SOME).images


def test_save_and_load_give_equal_pictures(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "MMFMPipeline"
    assert index["unet"] == ["mmfm.pipeline.models", "FlowModel"]
    again = MMFMPipeline.from_pretrained(tmp_path)
    assert np.array_equal(draw(again), draw(pipe))
    assert again.config["num_inference_steps"] == pipe.config["num_inference_steps"]
    assert again.config["guidance_scale"] == pipe.config["guidance_scale"]
    assert not any(module.training for module in again.components.values() if is_module(module))
    kept = [p.suffix for p in tmp_path.rglob("*") if p.stat().st_size > 50_000]
    assert set(kept) == {".safetensors"}


def is_module(part):
    return isinstance(part, torch.nn.Module)


def test_diffusers_alone_loads_it_when_mmfm_is_installed(one_pipe, tmp_path, monkeypatch):
    """Where nobody has imported mmfm's pipeline yet: the folder's own file does."""
    folder = tmp_path / "pipe"
    one_pipe.save_pretrained(folder)
    wanted = draw(one_pipe)
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("mmfm.pipeline")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AttributeError, match="MMFMPipeline"):  # diffusers has no such class
        DiffusionPipeline.from_pretrained(folder)
    again = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(folder), trust_remote_code=True
    )
    assert type(again).__name__ == "MMFMPipeline"
    assert np.array_equal(draw(again), wanted)


def test_diffusers_runs_nothing_of_a_folder_unasked(one_pipe, tmp_path):
    one_pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path))


def test_a_swapped_scheduler_is_saved_with_it(one_pipe, tmp_path):
    one_pipe.scheduler = FlowMatchHeunDiscreteScheduler.from_config(one_pipe.scheduler.config)
    one_pipe.save_pretrained(tmp_path)
    again = MMFMPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is FlowMatchHeunDiscreteScheduler
    assert np.array_equal(draw(again), draw(one_pipe))


def test_parts_may_be_passed_and_loaded_in_half_precision(one_pipe, tmp_path):
    one_pipe.save_pretrained(tmp_path)
    again = MMFMPipeline.from_pretrained(tmp_path, unet=one_pipe.unet)
    assert again.unet is one_pipe.unet
    half = MMFMPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    assert 0 < np.abs(draw(half) - draw(one_pipe)).max() < 0.2


def test_the_order_of_offloading_names_every_part(pipe):
    order = type(pipe).model_cpu_offload_seq.split("->")
    modules = [name for name, part in pipe.components.items() if is_module(part)]
    assert set(modules) <= set(order)
    # accelerate looks for the device of a part in its first parameter
    assert all(list(pipe.components[name].parameters()) for name in modules)
    assert "vae" in type(pipe)._optional_components


def test_offloading_by_diffusers_draws_the_same(pipe, tmp_path):
    """On a CPU the hooks move nothing, but they are set, called, freed and set again."""
    accelerate = pytest.importorskip(
        "accelerate", reason="offloading needs: pip install accelerate"
    )
    wanted = draw(pipe)
    pipe.save_pretrained(tmp_path)
    again = MMFMPipeline.from_pretrained(tmp_path)  # with accelerate: without memory for a copy
    again.enable_model_cpu_offload(device="cpu")
    modules = [part for part in again.components.values() if is_module(part)]
    assert len(again._all_hooks) == len(modules)
    assert all(isinstance(part._hf_hook, accelerate.hooks.CpuOffload) for part in modules)
    assert np.array_equal(draw(again), wanted)
    assert len(again._all_hooks) == len(modules)
    again.remove_all_hooks()
    assert np.array_equal(draw(again), wanted)
