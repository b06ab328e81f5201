"""`mmfm export`: what other programs read gives the vectors of the model."""

import open_clip
import torch

import mmfm


def test_open_clip_loads_the_exported_folder(tiny, tiny_model, tmp_path):
    done = tiny("export", "-o", tmp_path / "out", "--json")
    assert set(done.document["files"]) == {"open_clip_config.json", "open_clip_model.safetensors"}
    towers = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    ids = tiny_model.backbone.tokenize(["a red circle"])
    with torch.inference_mode():
        wanted = tiny_model.backbone.encode_texts(ids).pooled
        assert torch.allclose(towers.encode_text(ids, normalize=True), wanted, atol=1e-6)
    again = mmfm.load(f"local-dir:{tmp_path / 'out'}", device="cpu")
    assert again.backbone_hash == tiny_model.backbone_hash


def test_nothing_of_yours_is_replaced(tiny, tmp_path):
    for form in ("open_clip", "onnx"):
        folder = tmp_path / form
        folder.mkdir()
        (folder / "mine.txt").write_text("keep")
        assert "not empty" in tiny("export", "-o", folder, "--format", form).refused()
        assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_told(tiny, tmp_path):
    (tmp_path / "file").write_text("keep")
    assert "file" in tiny("export", "-o", tmp_path / "file").refused()
    assert "file" in tiny("export", "-o", tmp_path / "file" / "out").refused()


def test_an_unknown_format_is_told(tiny, tmp_path):
    assert "onnx" in tiny("export", "-o", tmp_path / "out", "--format", "tflite").refused()
