"""What a stage hands to the next."""

import pytest
import torch

from mmfm.finetuning import prepare_finetune
from mmfm.finetuning.looking import read
from mmfm.finetuning.speaking import only_rows
from mmfm.finetuning.stages import Tuning, copy_of
from mmfm.finetuning.words import grown
from tests.finetuning.conftest import QUICK


def test_captions_are_mixed_with_the_head_from_before_the_towers(
    grid_bundle, folder, known, tmp_path
):
    prepared = prepare_finetune(
        str(grid_bundle), images=folder, original=known, output=tmp_path / "new", train="all",
        heads=("contrastive", "caption"), **{**QUICK, "mix": 1.0},
    )  # fmt: skip
    tuning = Tuning(copy_of(prepared.base), prepared.material, prepared.choices,
                    prepared.settings, tmp_path / "run")  # fmt: skip
    tuning.run()
    texts = [text for said in prepared.material.captioned.captions for text in said]
    head = grown(prepared.base.captioner, prepared.base.vocabulary, texts)[0].state_dict()
    assert tuning.spoke.keys() == head.keys()
    assert all(tuning.spoke[name].equal(value) for name, value in head.items())
    assert tuning.told["caption_mix"]["before"].keys() >= {"held_out_f1", "original_f1"}


@pytest.mark.parametrize("train", ["heads", "all"])
def test_new_words_are_learned_when_the_towers_are_done(
    grid_bundle, folder, known, tmp_path, train
):
    for number in range(0, 24, 2):
        (folder / f"{number:02d}.txt").write_text("a zorb")
    prepared = prepare_finetune(
        str(grid_bundle), images=folder, original=known, output=tmp_path / "new", train=train,
        heads=("contrastive",), **{**QUICK, "mix": 0.0},
    )  # fmt: skip
    tuning = Tuning(copy_of(prepared.base), prepared.material, prepared.choices,
                    prepared.settings, tmp_path / "run")  # fmt: skip
    tuning.run()
    assert tuning.told["new_words"] == 1  # its piece "zor"; "b" is a letter
    old, new = (read(model.backbone, ["a zorb", "a red ellipse"])
                for model in (prepared.base, tuning.model))  # fmt: skip
    # with a mix of nothing, all that the towers learned is undone
    assert not old[0].allclose(new[0], atol=0.1) and old[1].allclose(new[1], atol=1e-5)


def test_only_rows_learn(tiny_model):
    head = copy_of(tiny_model).captioner
    old = {name: value.clone() for name, value in head.state_dict().items()}
    with only_rows(head, [3, 5]):
        learner = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad],
                                    weight_decay=0.0)  # fmt: skip
        for _ in range(2):
            head.token_embedding.weight.square().sum().backward()
            learner.step()
    assert all(p.requires_grad for p in head.parameters())
    name = "token_embedding.weight"
    moved = (head.state_dict()[name] != old[name]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [3, 5]
    assert all(value.equal(old[key]) for key, value in head.state_dict().items() if key != name)
