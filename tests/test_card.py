"""The model card: whole for any bundle, and no figure in it that its files do not have."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

import mmfm
from mmfm import bundle, card
from mmfm.errors import ModelError
from mmfm.papers import Papers

RATES = {name: (place + 1) / 20 for place, name in enumerate(card.RATES)}
METRICS = {
    "figures": {
        "test": {
            "data": {"num_samples": 1630, "sha256": "ab" * 32},
            "seed": 0,
            "retrieval": {"gallery": 1000, **RATES},
            "captioning": {"token_f1_name": 0.28623677, "cider_d": 0.9084},
            "generation": {"num_pictures": 468, "top1": 0.2179, "fid": 14.93},
        },
        "unseen": {"data": {"num_samples": 12}, "retrieval": {"gallery": 12}},
    },
    "bias": {"num_samples": 9, "by_gender_word": {"about": "names", "man": {"drawings": 4},
                                                  "woman": {"drawings": 5}}},
    "commands": {"test": "mmfm evaluate --data shards"},
    "limits": ["It knows circles."],
    "knows": "circles",
    "license": "Apache-2.0 (weights)",
}  # fmt: skip
ATTRIBUTION = """# Attribution

Changes made: none.

| set | author | source | licence | pictures |
|---|---|---|---|---|
| one | Ada | <https://example.org/a> | [CC-BY-4.0](https://creativecommons.org/by) | 30 |
| two | Bob | <https://example.org/b> | [MIT](https://spdx.org/MIT) | 12 |
| three | Cyd | <https://example.org/c> | [CC-BY-4.0](https://creativecommons.org/by) | 8 |
"""


@pytest.fixture(scope="module")
def documented(tiny_model, tmp_path_factory):
    """A bundle with every paper, made by `save_pretrained` itself."""
    from mmfm.training.compute import Stage, compute

    stages = [Stage(name="flow", samples=100, trained={"network_evaluation": 1}, cpu_seconds=60)]
    model = mmfm.MMFM(
        tiny_model.config, tiny_model.backbone, captioner=tiny_model.captioner,
        vocabulary=tiny_model.vocabulary, pixel_decoder=tiny_model.pixel_decoder,
        decoder=tiny_model.decoder, metrics=METRICS, compute=compute(tiny_model, stages),
        attribution=ATTRIBUTION, device="cpu",
    )  # fmt: skip
    return model.save_pretrained(tmp_path_factory.mktemp("bundles") / "told")


def sections(text):
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_every_bundle_has_a_card_with_every_section(documented, tiny_bundle):
    for folder in (documented, tiny_bundle):
        text = (folder / "README.md").read_text()
        assert tuple(sections(text)) == card.SECTIONS
        assert text == card.markdown(Papers.read(folder))
    assert "Figures: not recorded" in text and "energy: not recorded" in text


def test_figures_are_those_of_the_files(documented):
    text = (documented / "README.md").read_text()
    for shown in ("| drawings | 1,630 | 12 |", "| retrieval gallery | 1,000 | 12 |",
                  "| text to image recall@1 | 5.0% | - |", "| caption CIDEr-D | 0.91 | - |",
                  "| caption token F1 against the name | 0.286 | - |",
                  "| named right by an independent judge | 21.8% |", "FID in the judge's features",
                  "`mmfm evaluate --data shards`", "It knows circles.",
                  "| man | 4 |", "| CC-BY-4.0 | one, three | 38 |"):  # fmt: skip
        assert shown in text
    found = Papers.read(documented).compute
    assert f"{found['flops']['picture']:.3g}" in text
    assert f"{found['training']['flops']:.3g} FLOP" in text
    low, high = found["energy"]["kwh"]
    assert f"{low:.3g} to {high:.3g} kWh" in text


def test_no_number_is_made_up(documented):
    """Every table cell of the figures is a figure of metrics.json, rounded as the card rounds."""
    papers = Papers.read(documented)
    shown = re.search(r"## Figures\n(.*?)\n## ", card.markdown(papers), re.DOTALL)[1]
    known = {"-"}
    for _, value in card.leaves(papers.metrics["figures"]):
        if isinstance(value, int | float):
            ways = (card.percent, card.count, *(card.fixed(n) for n in (1, 2, 3)))
            known |= {way(value) for way in ways}
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]
    cells = [cell for row in rows for cell in row[1:] if re.search(r"\d", cell)]
    assert cells and set(cells) <= known


def test_the_hub_reads_the_front_matter(documented):
    read = ModelCard((documented / "README.md").read_text()).data
    assert (read.license, read.library_name) == ("apache-2.0", "mmfm")
    assert {"image-to-text", "text-to-image"} <= set(read.tags)
    told = {(r.dataset_name, r.metric_name): r.metric_value for r in read.eval_results}
    assert told["test", "token F1 against the name"] == 0.28623677
    assert told["test", "text_to_image_recall@1"] == RATES["text_to_image_recall@1"]
    assert told["test", "FID in the judge's features"] == 14.93


def test_papers_travel_with_the_model(documented, tmp_path):
    model = mmfm.load(documented, device="cpu")
    assert model.info()["compute"] == json.loads((documented / "compute.json").read_text())
    again = model.save_pretrained(tmp_path / "again")
    for name in ("metrics.json", "compute.json", "ATTRIBUTION.md", "README.md"):
        assert (again / name).read_bytes() == (documented / name).read_bytes()


def test_the_manifest_sees_every_change_but_the_cards(documented, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(documented, folder)
    assert Papers.read(folder).changed == []
    (folder / "README.md").write_text("my own words")
    assert Papers.read(folder).changed == []
    with (folder / "heads.safetensors").open("ab") as file:
        file.write(b"x")
    (folder / "extra.txt").write_text("new")
    (folder / "vocabulary.json").unlink()
    changed = ["extra.txt", "heads.safetensors", "vocabulary.json"]
    assert Papers.read(folder).changed == changed
    bundle.seal(folder)
    assert Papers.read(folder).changed == []
    (folder / "manifest.json").unlink()
    assert Papers.read(folder).changed is None


def test_licences_are_counted_from_the_attribution(documented):
    assert Papers.read(documented).licences == {
        "CC-BY-4.0": {"sets": ["one", "three"], "pictures": 38},
        "MIT": {"sets": ["two"], "pictures": 12},
    }


@pytest.mark.parametrize("text", ["[]", "{", '"x"'])
def test_damaged_papers_are_told(documented, tmp_path, text):
    folder = tmp_path / "copy"
    shutil.copytree(documented, folder)
    (folder / "compute.json").write_text(text)
    with pytest.raises(ModelError, match=r"compute\.json"):
        Papers.read(folder)


def test_the_model_that_ships_names_whom_it_learned_from():
    papers = Papers.read(bundle.find("mini"))
    assert papers.licences["CC-BY-4.0"]["pictures"] > 0
    text = card.markdown(papers)
    for line in papers.attribution.splitlines():
        assert line.startswith("# ") or line in text


def test_the_papers_of_what_ships_are_of_these_weights():
    """After a change of its files: python -m train.compute mmfm/weights/mini --stages FILE."""
    folder = bundle.find("mini")
    papers = Papers.read(folder)
    assert papers.changed in ([], None)
    if papers.manifest:
        assert (folder / "README.md").read_text(encoding="utf-8") == card.markdown(papers)


def test_figures_do_not_outlive_the_weights_they_are_of():
    from mmfm.papers import unmeasured

    kept = unmeasured(METRICS)
    assert set(METRICS) - set(kept) == {"figures", "bias", "commands"}
    assert kept["license"] == METRICS["license"]
