"""Every recipe of `train/` is complete: it plans, and one step of it at real size is sound."""

from pathlib import Path

import pytest

from mmfm.training.plan import GIB, plan
from mmfm.training.recipe import Recipe, load_recipe
from mmfm.training.rehearsal import rehearse

FOLDER = Path(__file__).parents[2] / "train"
FILES = {path: path.read_text() for path in sorted(FOLDER.glob("*.py"))}
# the others have commands of their own
RECIPES = [path for path, text in FILES.items() if "from mmfm.training.recipe import" in text]
LARGE = [path for path in RECIPES if path.stem != "tiny"]


def name(path):
    return path.stem


def test_all_are_here():
    assert {name(path) for path in RECIPES} >= {"tiny", "vit_b_32", "vit_b_16_siglip", "vit_l_14"}


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_one_step_at_real_size_is_sound(path):
    recipe = load_recipe(str(path))
    ranks = recipe.cluster.ranks
    found = rehearse(recipe, ranks)
    assert found["at_once"] * recipe.loop.accumulate * ranks == recipe.batch_size
    assert found["trained_parameters"] == plan(recipe)["parameters"]["total"]
    assert found["features"][0] == [found["at_once"], recipe.model_cfg["embed_dim"]]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_its_cluster_holds_it(path):
    found = plan(load_recipe(str(path)))
    assert found["memory"]["fits"]
    assert found["memory"]["total"] > 2 * GIB


@pytest.mark.parametrize("nodes", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("path", LARGE, ids=name)
def test_it_runs_on_1_to_64_nodes(path, nodes):
    recipe = load_recipe(str(path), [f"cluster.nodes={nodes}", "loop.accumulate=1"])
    least = plan(recipe)["memory"]["fits_with_accumulate"]
    assert least is not None
    settings = [f"cluster.nodes={nodes}", f"loop.accumulate={least}"]
    found = plan(load_recipe(str(path), settings))
    assert found["memory"]["fits"]
    assert found["batch"]["per_gpu"] * nodes * 8 == found["batch"]["global"]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_its_docstring_gives_a_command_and_a_result(path):
    text = path.read_text()
    told = text.split('"""')[1]
    assert f"mmfm train train/{path.name}" in told
    assert "Planned, not run." in told or "Measured" in told
    assert isinstance(load_recipe(str(path)), Recipe)
