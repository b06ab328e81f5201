"""What is decided from the data, and what of the towers is trained."""

import pytest
import torch

from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError, OutputError
from mmfm.finetuning.choices import choose, freeze_towers
from mmfm.finetuning.plan import expect_room
from mmfm.finetuning.settings import Settings, heads_from
from mmfm.presets import preset


def chosen(model, captioned, pictures=None, fresh=(), lora=False, **settings):
    return choose(
        Settings(**settings), model, num_captioned=captioned, num_pictures=pictures or captioned,
        fresh=list(fresh), lora=lora,
    )  # fmt: skip


def test_a_few_pictures_leave_the_towers_frozen(tiny_model):
    assert chosen(tiny_model, 7).train == "heads"
    assert chosen(tiny_model, 200).train == "all"


def test_more_pictures_take_more_steps_up_to_a_limit(tiny_model):
    steps = [chosen(tiny_model, n).tower_steps for n in (50, 500, 2000, 10**6)]
    assert steps == sorted(steps) and steps[0] < steps[2] and steps[-1] == 400


def test_without_captions_only_generation_adapts(tiny_model):
    found = chosen(tiny_model, 0, 100)
    assert found.heads == ("decoder",)
    assert (found.tower_steps, found.caption_steps) == (0, 0) and found.flow_steps > 0
    with pytest.raises(InputError, match="no picture has a caption"):
        chosen(tiny_model, 0, 100, heads=("caption",))


def test_towers_never_train_without_the_contrastive_loss(tiny_model):
    found = chosen(tiny_model, 500, heads=("caption", "decoder"), train="all")
    assert (found.train, found.tower_steps) == ("heads", 0)


def test_the_last_blocks_of_both_towers_are_trained():
    backbone = Backbone.from_config(preset("tiny").backbone)
    freeze_towers(backbone, "blocks:1")
    trained = {name for name, p in backbone.towers.named_parameters() if p.requires_grad}
    assert "visual.proj" in trained and "text_projection" in trained and "logit_scale" in trained
    assert any(name.startswith("visual.transformer.resblocks.1.") for name in trained)
    assert any(name.startswith("transformer.resblocks.1.") for name in trained)
    assert not any(".0." in name for name in trained) and "visual.conv1.weight" not in trained
    freeze_towers(backbone, "all")
    assert all(p.requires_grad for p in backbone.parameters())
    with pytest.raises(InputError, match=r"blocks:3.*has 2 blocks"):
        freeze_towers(backbone, "blocks:3")


@pytest.mark.parametrize(
    "wrong",
    [{"heads": ()}, {"heads": ("search",)}, {"heads": ("prompt", "caption")}, {"train": "some"},
     {"train": "blocks:0"}, {"holdout": 0.9}, {"mix": 2.0}, {"steps": 0}, {"learning_rate": -1.0},
     {"precision": "fp64"}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Settings(**wrong)


def test_heads_from_words():
    assert heads_from("caption, decoder,") == ("caption", "decoder")


def test_too_little_room_is_said_before_the_start(tmp_path):
    expect_room(1, 1, tmp_path / "new")
    with pytest.raises(InputError, match="GiB of memory"):
        expect_room(2**60, 1, tmp_path / "new")
    with pytest.raises(OutputError, match="GiB of disk"):
        expect_room(1, 2**60, tmp_path / "new")


def test_timing_changes_no_weight(tiny_model):
    from mmfm.finetuning.plan import pace

    class Sum:
        module = torch.nn.Linear(2, 1)

        def loss(self, rows, generator):
            return self.module(torch.randn(len(rows), 2, generator=generator)).sum(), {}

    before = {k: v.clone() for k, v in Sum.module.state_dict().items()}
    assert pace(Sum(), [0, 1]) > 0
    assert all(torch.equal(v, before[k]) for k, v in Sum.module.state_dict().items())
    assert all(p.grad is None for p in Sum.module.parameters())
