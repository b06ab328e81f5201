"""What a person can get wrong: exit 2, one line that names it, nothing on stdout."""

import pytest
from PIL import Image


@pytest.mark.parametrize(
    "args",
    [
        ("caption", "missing.png"),
        ("classify", "missing.png", "--labels", "a,b"),
        ("embed", "missing.png", "-o", "out.npz"),
        ("index", "missing", "-o", "index"),
        ("search", "missing", "a tree"),
        ("search", "pictures", "--image", "missing.png"),
    ],
)
def test_a_missing_file(tiny, pictures, monkeypatch, args):
    monkeypatch.chdir(pictures.parent)
    assert "missing" in tiny(*args).refused()


@pytest.mark.parametrize(
    "args",
    [
        ("caption", "empty"),
        ("embed", "empty", "-o", "out.npz"),
        ("index", "empty", "-o", "index"),
        ("search", "empty", "a tree"),
    ],
)
def test_a_folder_without_pictures(tiny, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    assert "empty" in tiny(*args).refused()


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n cut"])
def test_a_file_that_is_no_picture(tiny, tmp_path, content):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    assert "bad.png" in tiny("caption", bad).refused()


@pytest.mark.parametrize("name", ["maxi", "open_clip:No-Such/model", "local-dir:nowhere"])
def test_a_wrong_model_name(run, name):
    run("info", "--model", name).refused()


def test_a_wrong_device(run, tiny_bundle):
    assert "toaster" in run("info", "--model", tiny_bundle, "--device", "toaster").refused()


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_text(tiny, pictures, tmp_path, prompt):
    assert "empty" in tiny("generate", prompt, "-o", tmp_path / "out.png").refused()
    assert "empty" in tiny("search", pictures, prompt).refused()
    tiny("embed", "--text", prompt, "-o", tmp_path / "out.npz").refused()


def test_an_over_long_prompt_is_cut_and_told(tiny, tmp_path):
    prompt = "a very " + "long " * 200 + "tail"
    done = tiny("generate", prompt, "-o", tmp_path / "out.png", "--steps", 1)
    assert done.code == 0
    [warning] = [line for line in done.err.splitlines() if line.startswith("mmfm: warning: ")]
    assert "cut off" in warning


@pytest.mark.parametrize("labels", ["", "one", "a,,b", "a,a", " , "])
def test_bad_labels(tiny, pictures, labels):
    assert "--labels" in tiny("classify", pictures, "--labels", labels).refused()


@pytest.mark.parametrize("output", ["missing/out.png", "out.txt", "out", "pictures"])
def test_an_unwritable_output_is_told_before_the_work(run, pictures, monkeypatch, output):
    monkeypatch.chdir(pictures.parent)
    # the model does not exist: if the output were judged after it, the line would be about it
    line = run("generate", "a tree", "-o", output, "--model", "no-such-model").refused()
    assert output in line or "missing" in line
    assert "model" not in line


def test_the_demo_refuses_a_file_as_its_folder(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "file.png")
    assert "cannot make" in run("demo", "-o", tmp_path / "file.png").refused()


def test_a_damaged_index(tiny, pictures, tmp_path):
    tiny("index", pictures, "-o", tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text("{}")
    tiny("search", tmp_path / "index", "a tree").refused()


def test_a_search_for_nothing(tiny, pictures, tmp_path):
    tiny("index", pictures, "-o", tmp_path / "index")
    assert "--image" in tiny("search", tmp_path / "index").refused()
    assert "cancel" in tiny("search", tmp_path / "index", "tree", "--minus", "tree").refused()
