"""A search on a ready index loads neither torch nor open_clip, and gives what the model gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmfm
from mmfm.cli import gallery, main

HEAVY = ("torch", "torchvision", "open_clip", "timm", "faiss", "ftfy", "regex", "tqdm")
MINI = Path(mmfm.__file__).parent / "weights" / "mini"


@pytest.fixture(scope="module")
def desk(tmp_path_factory, tiny_model):
    """A folder with two drawings, an index of both by the tiny model, and a vector."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "pictures").mkdir()
    for number, source in enumerate(sorted(gallery.FOLDER.glob("*.png"))[:2]):
        (folder / f"pictures/{number}.png").write_bytes(source.read_bytes())
    index = mmfm.Index.build(tiny_model, folder / "pictures", folder / "index")
    np.save(folder / "vector.npy", index.vectors[1])
    return folder


def search(desk, *asked):
    """(hits, heavy modules) of `mmfm search` in a process of its own."""
    code = (
        "import sys; from mmfm.cli import main; code = main(sys.argv[1:]);"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    call = ["search", str(desk / "index"), *map(str, asked), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()[-1]


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
@pytest.mark.parametrize("asked", ["words", "minus", "vector", "picture"])
def test_a_search_imports_nothing_heavy_and_answers_as_the_model_does(
    desk, tiny_bundle, tiny_model, asked, device
):
    known = desk / "pictures" / "1.png"
    call, query = {
        "words": (["a red apple"], {"query": "a red apple"}),
        "minus": (["an apple", "--minus", "red"], {"query": "an apple", "minus": "red"}),
        "vector": (["--vector", desk / "vector.npy"], {"query": np.load(desk / "vector.npy")}),
        "picture": (["--image", known], {"image": known}),
    }[asked]
    hits, heavy = search(desk, *call, "--model", tiny_bundle, *device)
    assert heavy == "[]"
    wanted = mmfm.Index.open(desk / "index", tiny_model).search(**query)
    assert [hit["path"] for hit in hits] == [hit.path for hit in wanted]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=5e-6)


def test_a_folder_of_open_clip_is_searched_without_torch_too(tiny_bundle, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).write_bytes((tiny_bundle / name).read_bytes())
    model = mmfm.load(f"local-dir:{folder}", device="cpu")
    (tmp_path / "pictures").mkdir()
    source = next(gallery.FOLDER.glob("*.png"))
    (tmp_path / "pictures/a.png").write_bytes(source.read_bytes())
    wanted = mmfm.Index.build(model, tmp_path / "pictures", tmp_path / "index").search("a tree")
    hits, heavy = search(tmp_path, "a tree", "--model", f"local-dir:{folder}")
    assert heavy == "[]"
    assert hits[0]["score"] == pytest.approx(wanted[0].score, abs=5e-6)


@pytest.mark.parametrize("why", ["new picture", "rerank"])
def test_what_needs_the_model_loads_it(desk, tiny_bundle, tmp_path, why):
    call = ["a tree", "--rerank", "2"]
    if why == "new picture":
        source = sorted(gallery.FOLDER.glob("*.png"))[7]
        (tmp_path / "new.png").write_bytes(source.read_bytes())
        call = ["--image", str(tmp_path / "new.png")]
    hits, heavy = search(desk, *call, "--model", tiny_bundle, "--device", "cpu")
    assert len(hits) == 2
    assert "'torch'" in heavy and "'open_clip'" in heavy


def test_another_model_than_the_indexs_is_told(desk, capsys):
    code = main(["search", str(desk / "index"), "a tree", "--model", str(MINI)])
    assert code == 2
    assert "The index was made with 'tiny'" in capsys.readouterr().err


def test_a_cut_query_is_said(desk, tiny_bundle, capsys):
    words = "far too long " * 50
    assert main(["search", str(desk / "index"), words, "--model", str(tiny_bundle)]) == 0
    assert "cut off" in capsys.readouterr().err


def test_a_picture_from_words_needs_neither_open_clip_nor_diffusers(tiny_bundle, tmp_path):
    out = tmp_path / "out.png"
    code = (
        "import sys; from mmfm.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('open_clip', 'diffusers', 'torchvision', 'timm', 'scipy')"
        " if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    call = ["generate", "a tree", "-o", str(out), "--steps", "2", "--seed", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *call, "--model", str(tiny_bundle)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    model = mmfm.load(tiny_bundle, device="cpu")
    assert json.loads(done.stdout)["backbone"] == model.backbone_hash
    [wanted] = model.generate("a tree", num_steps=2, seed=1)
    with Image.open(out) as made:
        assert np.abs(np.asarray(made).astype(int) - np.asarray(wanted)).max() <= 1
