"""The calculator's formulas, against real modules: counted, run, and weighed."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfm.config import BackboneConfig
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError
from mmfm.training.costs import image_tower, scalar_parameters, text_tower
from mmfm.training.loop_config import LoopConfig
from mmfm.training.meter import flop_counter
from mmfm.training.plan import GIB, GPUS, Gpu, gpu_memory, lines, plan
from mmfm.training.recipe import Cluster, Recipe
from mmfm.training.rehearsal import faked

ROOT = Path(__file__).parents[2]


def vision(width, layers, patch_size, image_size=224, **more):
    return {"width": width, "layers": layers, "patch_size": patch_size, "image_size": image_size,
            **more}  # fmt: skip


def text(width, heads, layers, context_length=77, **more):
    return {"width": width, "heads": heads, "layers": layers, "context_length": context_length,
            "vocab_size": 49408, **more}  # fmt: skip


def model(embed_dim, vision_cfg, text_cfg, **more):
    return {"embed_dim": embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg, **more}


B32 = model(512, vision(768, 12, 32), text(512, 8, 12))
B16 = model(512, vision(768, 12, 16), text(512, 8, 12))
L14 = model(768, vision(1024, 24, 14), text(768, 12, 12))
SMALL = model(
    64, vision(128, 3, 8, 64, head_width=32, pool_type="avg"), text(96, 3, 2, 32),
)  # fmt: skip
OTHER = model(
    48, vision(96, 2, 16, 64, head_width=32, patch_dropout=0.5, ls_init_value=1e-4,
               no_ln_pre=True, mlp_ratio=2.0),
    text(64, 2, 3, 24, proj_bias=False), init_logit_bias=-10.0,
)  # fmt: skip


def built(model_cfg, device="cpu"):
    config = BackboneConfig(model_cfg=model_cfg, preprocess_cfg={})
    return Backbone.from_config(config, device=device).train()


def recipe(model_cfg=B32, cluster=None, batch_size=4096, **loop):
    return Recipe(
        name="test", model_cfg=model_cfg, num_samples=10_000, batch_size=batch_size,
        loop=LoopConfig(**{"num_steps": 100, "precision": "bf16", **loop}),
        cluster=cluster or Cluster(nodes=1, gpus=8, gpu="H100"),
    )  # fmt: skip


@pytest.mark.parametrize("cfg", [B32, B16, L14, SMALL, OTHER])
def test_parameters_are_those_of_the_real_modules(cfg):
    towers = built(cfg, "meta").towers
    count = {"image": sum(p.numel() for p in towers.visual.parameters())}
    count["text"] = sum(p.numel() for p in towers.parameters()) - count["image"]
    assert image_tower(cfg).parameters == count["image"]
    assert text_tower(cfg).parameters + scalar_parameters(cfg) == count["text"]


def test_known_models_have_their_published_size_and_operations():
    """open_clip's docs/model_profile.csv: millions of parameters, GFLOP forward."""
    for cfg, millions, image, texts in ((B32, 151.28, 8.82, 5.96), (L14, 427.62, 162.03, 13.30)):
        found = plan(recipe(cfg))
        assert found["parameters"]["total"] / 1e6 == pytest.approx(millions, abs=0.01)
        assert found["forward_flops"]["image"] / 1e9 == pytest.approx(image, abs=0.01)
        assert found["forward_flops"]["text"] / 1e9 == pytest.approx(texts, abs=0.01)


def counted(work):
    with flop_counter() as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("cfg", [SMALL, OTHER])
def test_operations_are_those_that_torch_counts(cfg, checkpointed):
    towers = built(cfg).towers
    towers.set_grad_checkpointing(checkpointed)
    count, size = 3, cfg["vision_cfg"]["image_size"]
    images = torch.randn(count, 3, size, size)
    ids = torch.randint(0, 49408, (count, cfg["text_cfg"]["context_length"]))
    for tower, encode in (
        (image_tower(cfg), lambda: towers.encode_image(images)),
        (text_tower(cfg), lambda: towers.encode_text(ids)),
    ):
        with torch.no_grad():
            assert counted(encode) == pytest.approx(count * tower.forward_flops, rel=0.01)
        trained = counted(lambda encode=encode: encode().sum().backward())
        assert trained == pytest.approx(count * tower.training_flops(checkpointed), rel=0.01)


def saved_bytes(module, work):
    """Bytes that autograd keeps after `work`, each storage once, parameters left out."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = (storage, storage.nbytes())  # held: addresses come again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(size for _, size in found.values())


@pytest.mark.parametrize("cfg", [SMALL, OTHER, B32])
def test_activations_weigh_what_autograd_keeps(cfg):
    """In float32, through `Backbone.forward`; the real B/32 on fake tensors, without its memory."""
    real = cfg is not B32
    module = built(cfg, "cpu" if real else "meta")
    with nullcontext() if real else FakeTensorMode():
        module = module if real else faked(module)
        size, length = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"]
        pixels = torch.zeros(8, size, size, 3, dtype=torch.uint8)
        ids = torch.zeros(8, length, dtype=torch.int64)
        kept = saved_bytes(module, lambda: module(pixels, ids, length))
    planned = 8 * (image_tower(cfg).saved_bytes() + text_tower(cfg).saved_bytes())
    assert kept == pytest.approx(planned, rel=0.05)


def test_half_precision_activations_weigh_what_autograd_keeps():
    """Of the text tower, whose residual stream is float32 under autocast on every device."""
    cfg = SMALL
    towers = built(cfg).towers
    ids = torch.randint(0, 49408, (64, 32))

    def encode():
        with torch.autocast("cpu", torch.bfloat16):
            return towers.encode_text(ids)

    kept = saved_bytes(towers, encode)
    tower = text_tower(cfg)
    copies = 2 * tower.layers * tower.block_parameters
    assert kept == pytest.approx(64 * tower.saved_bytes(half=True) + copies, rel=0.08)


def test_patch_dropout_halves_tokens_and_checkpointing_shrinks_activations():
    dropped = model(512, vision(768, 12, 16, patch_dropout=0.5), text(512, 8, 12))
    assert image_tower(dropped).tokens == 99
    ratio = image_tower(B16).training_flops() / image_tower(dropped).training_flops()
    assert 1.9 < ratio < 2.2
    light, full = (image_tower(L14).saved_bytes(True, c) for c in (True, False))
    assert light < full / 5


def test_sharding_divides_what_a_process_holds_and_parts_divide_activations():
    def memory(**loop):
        return gpu_memory(recipe(L14, **loop), image_tower(L14), text_tower(L14))

    ddp, fsdp, parts = memory(), memory(parallel="fsdp2"), memory(accumulate=4)
    for name in ("weights", "gradients", "optimizer", "average"):
        assert fsdp[name] == pytest.approx(ddp[name] / 8)
        assert parts[name] == ddp[name]
    assert parts["activations"] == pytest.approx(ddp["activations"] / 4)
    assert ddp["optimizer"] == 2 * 4 * plan(recipe(L14))["parameters"]["total"]
    assert memory(ema_decay=0.0)["average"] == 0


def test_the_advice_fits_and_less_does_not():
    found = plan(recipe(L14, batch_size=8192))["memory"]
    assert not found["fits"]
    least = found["fits_with_accumulate"]
    assert plan(recipe(L14, batch_size=8192, accumulate=least))["memory"]["fits"]
    assert not plan(recipe(L14, batch_size=8192, accumulate=least // 2))["memory"]["fits"]
    tiny = Gpu(1e12, 1 * GIB)
    assert plan(recipe(L14), tiny)["memory"]["fits_with_accumulate"] is None


def test_time_follows_from_operations_and_the_slower_side():
    one = plan(recipe())
    two = plan(recipe(cluster=Cluster(nodes=2, gpus=8, gpu="H100")))
    assert two["time"]["compute_days"] == pytest.approx(one["time"]["compute_days"] / 2)
    flops = one["training_flops"]
    peak = 8 * GPUS["H100"].flops * 0.4
    assert one["time"]["compute_days"] == pytest.approx(flops["total"] / peak / 86400)
    assert one["time"]["bound_by"] == "loader"  # 8 processes a GPU are too few for a B/32
    fast = plan(recipe(cluster=Cluster(worker_rate=1e6)))
    assert fast["time"]["bound_by"] == "compute"
    assert fast["time"]["days"] == fast["time"]["compute_days"] < one["time"]["days"]
    needed = one["data"]["workers_per_gpu_needed"]
    assert needed == math.ceil(one["time"]["compute_samples_per_second"] / 8 / 400)


def test_gradient_caching_costs_a_forward_pass_but_for_its_last_part():
    plain, cached = (plan(recipe(accumulate=n))["training_flops"] for n in (1, 4))
    again = cached["of_which"]["gradient_caching"]
    assert plain["of_which"]["gradient_caching"] == 0
    towers = image_tower(B32).forward_flops + text_tower(B32).forward_flops
    assert again == pytest.approx(0.75 * towers)


def test_words_say_whether_it_fits():
    told = "\n".join(lines(plan(recipe())))
    assert "it fits" in told and "151.3 M" in told
    told = "\n".join(lines(plan(recipe(L14, batch_size=8192))))
    assert "does NOT fit; loop.accumulate=" in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cluster": Cluster(gpu="H900")}, "A100-40"),
        ({"batch_size": 4100}, "multiple of 8"),
        ({"model_cfg": model(512, {"timm_model_name": "x"}, text(512, 8, 12))}, "timm_model_name"),
        ({"model_cfg": {**B32, "custom_text": True}}, "custom_text"),
        ({"model_cfg": model(512, vision(64, [3, 4, 6, 3], 32), text(512, 8, 12))}, "layers"),
    ],
)
def test_what_has_no_formula_is_refused_in_a_sentence(change, said):
    with pytest.raises(InputError, match=said):
        plan(replace(recipe(), **change))
