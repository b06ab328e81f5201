"""Recipes: loaded by path, changed by key=value, refused in one sentence."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmfm.config import override, to_dict
from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig
from mmfm.training.recipe import Cluster, Recipe, load_recipe

TINY = str(Path(__file__).parents[2] / "train" / "tiny.py")


def tiny(*settings):
    return load_recipe(TINY, settings)


def test_settings_reach_every_level_with_their_type():
    recipe = tiny(
        "loop.num_steps=7", "loop.learning_rate=1", "cluster.nodes=3", "data=a/b=c.tar",
        "model_cfg.vision_cfg.patch_dropout=0.5", "same_caption=false", "text_tokens=none",
    )  # fmt: skip
    assert (recipe.loop.num_steps, recipe.cluster.nodes, recipe.data) == (7, 3, "a/b=c.tar")
    assert recipe.loop.learning_rate == 1.0 and isinstance(recipe.loop.learning_rate, float)
    assert recipe.model_cfg["vision_cfg"]["patch_dropout"] == 0.5
    assert recipe.same_caption is False and recipe.text_tokens is None
    assert tiny("text_tokens=9").text_tokens == 9
    # nothing else changed, and the recipe itself is as it was
    same = replace(
        recipe, data="", same_caption=True, text_tokens=16, loop=tiny().loop,
        cluster=tiny().cluster, model_cfg=tiny().model_cfg,
    )  # fmt: skip
    assert same == tiny()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loop.num_step=7", "loop.num_steps"),
        ("clustr.nodes=7", "cluster"),
        ("model_cfg.vision_cfg.widht=3", "model_cfg.vision_cfg.width"),
        ("batch_size=many", "is not int"),
        ("batch_size=2.5", "is not int"),
        ("same_caption=maybe", "is not bool"),
        ("text_tokens=many", "is not int"),
        ("batch_size.more=3", "'batch_size' is one value"),
        ("model_cfg=3", "cannot be set"),
        ("mean=0.5", "cannot be set"),
        ("loop=3", "cannot be set"),
        ("batch_size", "wanted key=value"),
        ("=3", "wanted key=value"),
        ("loss=cubic", "softmax, sigmoid"),
        ("loss=sigmoid", "init_logit_bias"),
        ("captions=last", "first, random"),
        ("crop=0", "up to 1"),
        ("batch_size=1", "at least 2"),
        ("on_bad=ignore", "raise, skip, quarantine"),
        ("max_bad=2", "from 0 to 1"),
        ("cluster.nodes=0", "at least 1"),
        ("cluster.utilisation=2", "up to 1"),
        ("cluster.worker_rate=0", "more than 0"),
        ("loop.precision=fp8", "fp32, bf16"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(setting, said):
    with pytest.raises(InputError, match=said) as refused:
        tiny(setting)
    assert "\n" not in str(refused.value)


def test_a_recipe_file_is_found_by_its_path_and_leaves_packages_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "train"  # a user's own folder of that name
    folder.mkdir()
    text = Path(TINY).read_text()
    text += "\n\ndef longer() -> Recipe:\n    return override(recipe(), {'loop.num_steps': '9'})\n"
    (folder / "mine.py").write_text(text.replace("import annotations", "import annotations\n"
                                    "from mmfm.config import override"))  # fmt: skip
    before = {name for name in sys.modules if name.split(".")[0] == "train"}
    assert load_recipe("train/mine.py") == tiny()
    assert load_recipe("train/mine.py:longer").loop.num_steps == 9
    assert {name for name in sys.modules if name.split(".")[0] == "train"} == before


@pytest.mark.parametrize(
    ("content", "spec", "said"),
    [
        (None, "absent.py", "no recipe file"),
        (None, "absent", "no recipe file"),
        ("x = 1", "r.py", "no function 'recipe'"),
        ("x = 1", "r.py:x", "no function 'x'"),
        ("def recipe():\n    return 3", "r.py", "gave int, wanted a Recipe"),
        ("def recipe(:", "r.py", "SyntaxError"),
        ("import not_there_at_all", "r.py", "not_there_at_all"),
        ("def recipe():\n    return 1 / 0", "r.py", "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path, monkeypatch, content, spec,
                                                             said):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("r.py").write_text(content)
    with pytest.raises(InputError, match=said):
        load_recipe(spec)


def test_the_batch_is_shared_or_refused():
    recipe = tiny("batch_size=96", "loop.accumulate=2")
    assert [recipe.local_batch(ranks) for ranks in (1, 2, 16)] == [96, 48, 6]
    with pytest.raises(InputError, match=r"batch_size=96 .* 5 processes .* multiple of 10"):
        recipe.local_batch(5)


def test_pixels_and_size_come_from_one_place():
    config = tiny("model_cfg.vision_cfg.image_size=96").backbone
    assert config.image_size == 96
    assert config.preprocess_cfg["size"] == 96
    assert config.preprocess_cfg["mean"] == [0.5, 0.5, 0.5]


def test_only_what_decides_the_weights_must_stay():
    recipe = tiny()
    free = tiny("data=x", "workers=3", "cluster.nodes=4", "checkpoint_activations=true",
                "loop.log_every=3", "held_out=y", "max_bad=0.5")  # fmt: skip
    assert free.decides() == recipe.decides()
    for setting in ("batch_size=64", "captions=random", "crop=0.5",
                    "model_cfg.vision_cfg.layers=3"):  # fmt: skip
        assert tiny(setting).decides() != recipe.decides()


def test_a_recipe_needs_its_sizes():
    with pytest.raises(TypeError):
        Recipe(name="x", model_cfg={})
    assert Cluster(nodes=4, gpus=2).ranks == 8
    recipe = tiny()
    assert recipe.samples_seen == recipe.batch_size * recipe.loop.num_steps
    assert to_dict(override(recipe, {})) == to_dict(recipe)
    assert isinstance(recipe.loop, LoopConfig)
