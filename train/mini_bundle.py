"""What ships of `mini`: the weights in half precision, measured, with their figures and their cost.

`python -m train.mini --stage bundle` comes here. Every figure is that of the command beside it
(`metrics.json`, "commands"), on shards that `python -m data_pipelines.drawings` and
`python -m data_pipelines.scenes` built.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmfm.data.shards import read_shards
from mmfm.training.compute import Stage, compute, stage_of_log
from mmfm.training.log import LINES

if TYPE_CHECKING:
    from mmfm.data.sample import Sample
    from mmfm.model import MMFM
    from train.mini_recipe import Recipe

EMOJI = ("noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione", "fxemoji")
QUICK = ("retrieval", "captioning", "reconstruction")
PARTS = {  # of each split, when all is measured; "bias" has a place of its own in metrics.json
    "test": (*QUICK, "prompts", "bias"), "unseen": QUICK,
    "test_emoji": (*QUICK, "reranking", "generation"),
}  # fmt: skip
SCENES = ("reconstruction", "scenes")
MODES = {  # of drawing -> (settings of evaluation.Asking, the option of `mmfm evaluate`)
    "50_steps": ({"num_steps": 50}, "--num-steps 50"),
    "few": ({"sampler": "few"}, "--sampler few"),
}
LIMITS = (
    "It knows emoji, icons and clip art at 64 px; it has never seen a photograph.",
    "It does not read or write text in pictures, and knows no person, place or brand by name.",
    "It understands short English names; other languages and long sentences are beyond it.",
    "Most pictures that it draws are recognisable by colour and outline at best.",
    "Its drawings of people follow the emoji they came from: yellow skin where no tone is named.",
)


def write_bundle(
    recipe: Recipe, data: Path, scenes: Path, bundle: Path, folder: Path,
    stages: Sequence[Stage] = (), quick: bool = False,
) -> None:  # fmt: skip
    """The model in half precision, measured as it will ship, with figures, origin and cost.

    stages: how it was trained. quick: retrieval, captions and reconstruction alone, in a minute;
    else everything that the README tells, in about ten.
    """
    from mmfm.model import MMFM
    from mmfm.presets import mini

    trained = MMFM.from_pretrained(bundle, device="cpu")
    # how to sample is chosen after training, so it is set here and not before
    trained.config = replace(trained.config, generation=mini(space=recipe.space).generation)
    trained.save_pretrained(folder, dtype=torch.float16)
    model = MMFM.from_pretrained(folder, device="cpu")
    splits = {name: list(read_shards(data / name)) for name in ("test", "unseen")}
    splits["test_emoji"] = [s for s in splits["test"] if s.meta["set"] in EMOJI]
    if not quick:
        splits["scenes"] = list(read_shards(scenes / "test"))
    figures, commands = measure(model, splits, quick)
    bias = figures["test"].pop("bias", None)
    manifest = json.loads((data / "manifest.json").read_text())
    model.metrics = {
        "figures": figures,
        **({} if bias is None else {"bias": bias}),
        "commands": commands,
        "trained_on": {
            "drawings": "npm @iconify/json and Debian openclipart, split `train`",
            "samples": manifest.get("samples", {}),
            "archives_sha256": manifest["archives_sha256"],
            "licenses": sorted({s["license"] for s in manifest["sets"].values()}),
            "recipe": asdict(recipe),
        },
        "datasets": ["iconify-json", "emojibase-data", "openclipart"],
        "knows": "drawings, icons and emoji on plain ground, two or three of them beside each "
        "other; no photographs",
        "limits": list(LIMITS),
        "license": "Apache-2.0 (weights and code); drawings as in ATTRIBUTION.md",
    }
    model.compute = compute(model, stages)
    model.attribution = (data / "ATTRIBUTION.md").read_text(encoding="utf-8")
    # the weights are halves already: saving them again changes no bit of them
    model.save_pretrained(folder, dtype=torch.float16)
    draw_sheet(model, splits["test_emoji"], folder.parent / "generated.png")
    print(json.dumps(figures, indent=2))


def measure(
    model: MMFM, splits: dict[str, list[Sample]], quick: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """(figures, the command that gives them) of each split."""
    from mmfm.evaluation import Asking, evaluate

    figures, commands = {}, {}
    for name, samples in splits.items():
        parts = SCENES if name == "scenes" else QUICK if quick else PARTS[name]
        figures[name] = evaluate(model, samples, parts=parts)
        commands[name] = command_of(name, parts)
    for name, part in () if quick else (("test_emoji", "generation"), ("scenes", "scenes")):
        for mode, (settings, option) in MODES.items():
            if mode == "few" and not model.config.decoder.few_steps:
                continue
            parts = (part, "cycle") if (part, mode) == ("generation", "few") else (part,)
            asked = evaluate(model, splits[name], parts=parts, asking=Asking(**settings))
            figures[name].update({f"{part}_{mode}": asked.pop(part) for part in parts})
            commands[f"{part}_{mode}"] = f"{command_of(name, parts)} {option}"
    return figures, commands


def command_of(split: str, parts: Sequence[str]) -> str:
    """The line that gives the figures of a split, for the model that ships."""
    if split == "scenes":
        return f"mmfm evaluate --data data/scenes/test --parts {','.join(parts)}"
    folder, _, emoji = split.partition("_")
    sets = f" --sets {','.join(EMOJI)}" if emoji else ""
    return f"mmfm evaluate --data data/drawings/{folder}{sets} --parts {','.join(parts)}"


def logged_stages(folders: Sequence[Path], hardware: str = "") -> list[Stage]:
    """The stages whose logs are there, in order; what has no log is not told of."""
    return [stage_of_log(folder, hardware=hardware) for folder in folders
            if (folder / LINES).is_file()]  # fmt: skip


def draw_sheet(model: MMFM, samples: list[Sample], path: Path, count: int = 60) -> None:
    """Pictures for the names of `count` test drawings, drawn at random with a fixed seed."""
    from mmfm.cli.sheet import contact_sheet

    names = sorted({s.meta["name"] for s in samples if not s.meta["skin_tone"]})
    chosen = random.Random(0).sample(names, min(count, len(names)))
    images = [model.generate(name, seed=0)[0] for name in chosen]
    contact_sheet(images, chosen, columns=12, cell=96).save(path)
