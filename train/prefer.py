"""Preference tuning of a model's decoder: Diffusion-DPO on pairs from a folder, or its own.

    python -m train.prefer --prompts names.txt -o runs/prefer
    python -m train.prefer --pairs my_pairs/ --prompts names.txt -o runs/prefer

Without `--pairs` the model draws pictures for the prompts and ranks them itself, into
`runs/prefer/pairs` (mmfm/training/self_ranking.py). An eighth of the prompts is held out, by
their hash. An adapter is tuned with the model itself as the reference, in `runs/prefer/tune`, and
everything resumes. `runs/prefer/report.json` says how often the tuned model wins on the
held-out prompts (and those of `--measure`), by what ranked the pairs and by the independent judge;
`runs/prefer/bundle` is the model with the adapter merged in.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import torch

from mmfm.config import override
from mmfm.errors import InputError
from mmfm.papers import unmeasured
from mmfm.training.loop import LoopConfig

HELD_OUT = 8  # one prompt in so many


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the tuned weights, but the model and the pairs."""

    candidates: int = 4  # pictures that a model draws to rank itself
    candidate_steps: int = 8  # with which it draws them; they need not be the finest
    rank: int = 16  # of the adapter
    beta: float = 500.0
    batch_size: int = 64
    seed: int = 0
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=16, learning_rate=1e-4, warmup_steps=4, weight_decay=0.0, ema_decay=0.9,
            log_every=4, evaluate_every=8, save_every=8, precision="bf16",
        )
    )  # fmt: skip


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is only measured on."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % HELD_OUT == 0


def read_lines(file: Path) -> list[str]:
    """The lines of a file that are not empty. Raises InputError when there is no such file."""
    if not file.is_file():
        raise InputError(f"there is no file {file}; wanted prompts, one a line")
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def tune(recipe: Recipe, model, pairs: list, folder: Path):
    """The adapter, trained on the pairs whose prompts are not held out."""
    from mmfm.data.order import Order
    from mmfm.layers.adapter import Adapter
    from mmfm.training.loop import train
    from mmfm.training.preference import PreferenceData, PreferenceTask

    kept = [pair for pair in pairs if not is_held_out(pair.prompt)]
    held_out = [pair for pair in pairs if is_held_out(pair.prompt)]
    if not kept or not held_out:
        raise InputError(
            f"{len(kept)} pairs are left to train on and {len(held_out)} are held out; give more"
        )
    torch.manual_seed(recipe.seed)
    adapter = Adapter(model.decoder.network, recipe.rank, skip=("conditioner.",))
    task = PreferenceTask(
        model.decoder, adapter, PreferenceData(model, kept), PreferenceData(model, held_out),
        beta=recipe.beta,
    )  # fmt: skip
    order = Order(np.ones(len(kept)), min(recipe.batch_size, len(kept)), recipe.seed)
    settings = {k: v for k, v in asdict(recipe).items() if k != "loop"}
    return train(task, order, replace(recipe.loop, seed=recipe.seed), folder, settings=settings)


def compare(model, tuned, prompts: list[str], seed: int) -> dict:
    """How often the tuned model wins, one picture a prompt, both from one seed.

    By what ranked the pairs, and by the judge, which did not: on the prompts that it can name,
    with the share that it names right and the distance of both to each other in its features.
    """
    from mmfm.evaluation.judge import Judge
    from mmfm.training.self_ranking import own_scores, win_rate

    judge = Judge.load()
    known = [i for i, prompt in enumerate(prompts) if prompt in judge.classes]
    classes = np.array([judge.number(prompts[i]) for i in known], dtype=int)
    own, chances, right = [], [], []
    for one in (model, tuned):
        pictures = one.generate(prompts, seed=seed)
        own.append(own_scores(model, pictures, prompts))
        if known:
            look = judge.look([pictures[i] for i in known])
            chances.append(look.chances(classes))
            right.append(float((look.ranks(classes) < 1).mean()))
    report = {
        "num_prompts": len(prompts), "seed": seed,
        "win_rate_backbone": win_rate(own[1][:, 0], own[0][:, 0]),
        "win_rate_captions": win_rate(own[1][:, 1], own[0][:, 1]),
    }  # fmt: skip
    if known:
        report |= {
            "num_judged": len(known), "win_rate_judge": win_rate(chances[1], chances[0]),
            "judge_top1_before": right[0], "judge_top1_after": right[1], "judge_hash": judge.hash,
        }  # fmt: skip
    return report


def prefer(
    recipe: Recipe, source: str, prompts: list[str], measured: list[str], pairs: Path | None,
    out: Path,
) -> dict:  # fmt: skip
    """All of it; returns the report, made on the prompts `measured` and those held out."""
    import mmfm
    from mmfm.training.preference import read_pairs
    from mmfm.training.self_ranking import rank_pairs

    model = mmfm.load(source, device="cpu")
    if model.decoder is None:
        raise InputError(f"{source} has no decoder, the part that draws; load 'mini'")
    if pairs is None:
        pairs = out / "pairs"
        made = rank_pairs(
            model, prompts, pairs, candidates=recipe.candidates, seed=recipe.seed,
            num_steps=recipe.candidate_steps,
        )  # fmt: skip
        print(f"{made} new pairs in {pairs}", file=sys.stderr)
    adapter = tune(recipe, model, read_pairs(pairs), out / "tune")
    tuned = mmfm.load(source, device="cpu")
    adapter.merge(tuned.decoder.network)
    report = {"recipe": asdict(recipe), "model": source}
    held_out = sorted({prompt for prompt in prompts if is_held_out(prompt)} | set(measured))
    if held_out:
        report |= compare(model, tuned, held_out, recipe.seed)
    tuned.metrics, tuned.compute = unmeasured(tuned.metrics), {}
    tuned.save_pretrained(out / "bundle", dtype=torch.float16)
    (out / "report.json").write_text(json.dumps(report, indent=2))
    return report


@click.command()
@click.option("--model", "source", default="mini", show_default=True)
@click.option("--prompts", type=click.Path(path_type=Path), required=True, help="One a line.")
@click.option("--measure", type=click.Path(path_type=Path), help="Prompts to compare on, beside.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Folder with a pairs.jsonl.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/prefer"))
@click.argument("settings", nargs=-1)
def main(
    source: str, prompts: Path, measure: Path | None, pairs: Path | None, output: Path,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Tune the decoder of --model towards what is preferred; SETTINGS are key=value."""
    torch.set_flush_denormal(True)
    try:
        asked = read_lines(prompts)
        measured = [] if measure is None else read_lines(measure)
        both = sorted(set(asked) & set(measured))
        if both:
            raise InputError(f"{measure} has {len(both)} prompts that are tuned on, as {both[0]!r}")
        changes = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise InputError(f"got {setting!r}, wanted key=value")
            changes[key] = value
        report = prefer(override(Recipe(), changes), source, asked, measured, pairs, output)
        print(json.dumps(report, indent=2))
    except InputError as error:
        click.echo(f"train.prefer: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
