"""What is refused, each in one sentence and before anything is trained."""

import pytest

import mmfm
from mmfm.errors import InputError, OutputError
from tests.finetuning.conftest import QUICK, fill


def test_pictures_alone_teach_generation(tiny_bundle, tmp_path):
    folder = fill(tmp_path / "bare", captions=False)
    report = mmfm.finetune(str(tiny_bundle), images=folder, output=tmp_path / "new", **QUICK)
    tuned, base = (mmfm.load(one, device="cpu") for one in (tmp_path / "new", tiny_bundle))
    # halves on disk: the towers are the base's, rounded
    assert all(
        a.allclose(b, atol=1e-3)
        for a, b in zip(tuned.backbone.parameters(), base.backbone.parameters())
    )
    assert any("no caption" in note for note in report.notes)
    assert report.told["stages"].keys() == {"flow"}


def test_an_unknown_setting_names_the_nearest(tiny_bundle, folder, tmp_path):
    with pytest.raises(InputError, match=r"'step'.*steps"):
        mmfm.finetune(str(tiny_bundle), images=folder, output=tmp_path / "new", step=3)


def test_an_output_that_is_something_else_is_left_alone(tiny_bundle, folder, tmp_path):
    with pytest.raises(OutputError, match="not an mmfm bundle"):
        mmfm.finetune(str(tiny_bundle), images=folder, output=folder)
    assert (folder / "00.png").exists()


def test_low_rank_without_the_library_says_what_to_install(
    tiny_bundle, folder, tmp_path, monkeypatch
):
    import sys

    monkeypatch.setitem(sys.modules, "mmfm.lora", None)
    with pytest.raises(InputError, match="peft"):
        mmfm.finetune(str(tiny_bundle), images=folder, output=tmp_path / "new", lora=True, **QUICK)


def test_an_adapter_cannot_hold_a_fresh_head(folder, tmp_path, monkeypatch):
    from mmfm.finetuning import run
    from tests.finetuning.test_open_clip import bare

    monkeypatch.setattr(run, "_expect_lora", lambda: None)
    with pytest.raises(InputError, match="no head for caption and decoder"):
        mmfm.finetune(bare("softmax"), images=folder, output=tmp_path / "new", lora=True)


def test_captions_that_are_no_classes_are_refused(tiny_bundle, folder, tmp_path):
    for number in range(24):
        (folder / f"{number:02d}.txt").write_text(f"thing {number}")
    with pytest.raises(InputError, match=r"wants classes|cannot adapt prompts"):
        mmfm.finetune(str(tiny_bundle), images=folder, output=tmp_path / "new", heads=("prompt",))


def test_pictures_of_the_folder_are_no_original_ones(tiny_bundle, folder, tmp_path):
    lines = []
    report = mmfm.finetune(str(tiny_bundle), images=folder, original=folder, say=lines.append,
                           output=tmp_path / "new", heads=("contrastive",), **QUICK)  # fmt: skip
    assert set(report.figures) == {"held_out"}
    assert any("24 original pictures are in the folder too" in line for line in lines)


def test_a_model_is_not_written_over_itself(tiny_bundle, folder):
    with pytest.raises(OutputError, match="beside it"):
        mmfm.finetune(str(tiny_bundle), images=folder, output=tiny_bundle)
