"""`mmfm train`: a backbone from shards, by a recipe."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.info import lines_of
from mmfm.cli.options import Run
from mmfm.errors import InputError

if TYPE_CHECKING:
    from mmfm.training.recipe import Recipe


@click.command("train")
@click.argument("recipe", metavar="RECIPE.py[:FUNCTION]")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", help="Folder of the run; the same again goes on with it.")
@click.option("--plan", is_flag=True, help="Say what it takes: size, memory, days. Trains nothing.")
@click.option("--dry-run", is_flag=True, help="Check everything without training.")
@click.option("--device", help="cpu, cuda, cuda:1, mps; default: the best one present.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@click.pass_context
def command(
    ctx: click.Context, recipe: str, settings: tuple[str, ...], output: str | None, plan: bool,
    dry_run: bool, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Train a backbone from shards, by a recipe.

    A recipe is a Python file with a function `recipe()`. Settings change it: data=SHARDS
    held_out=SHARDS loop.num_steps=1000 cluster.nodes=8. Run it under torchrun to use many
    processes. The averaged weights become the model OUTPUT/bundle.

    Example: mmfm train train/tiny.py data=data/drawings/train -o runs/tiny
    """
    from mmfm.training.recipe import load_recipe

    run = Run(recipe, device, None, as_json)
    chosen = load_recipe(recipe, settings)
    if plan:
        _plan(run, chosen)
    elif dry_run:
        _dry_run(run, chosen, [recipe, *settings], output)
    elif output is None:
        raise click.UsageError("give the folder of the run: -o runs/NAME, or --plan, or --dry-run")
    else:
        _train(ctx, run, chosen, output)


def _plan(run: Run, recipe: Recipe) -> None:
    from mmfm.training.plan import lines, plan

    found = plan(recipe)
    run.result(found, "\n".join(lines(found)))


def _dry_run(run: Run, recipe: Recipe, arguments: list[str], output: str | None) -> None:
    from mmfm.training.rehearsal import rehearse

    ranks = recipe.cluster.ranks
    found: dict[str, Any] = {"recipe": recipe.name, "step": rehearse(recipe, ranks)}
    found["data"] = _look(recipe, ranks)
    found["commands"] = commands(recipe, [*arguments, "-o", output or f"runs/{recipe.name}"])
    step, data = found["step"], found["data"]
    seen = "no data given" if data is None else (
        f"{data['samples']:,} samples in {data['shards']:,} shards, {data['epochs']:.2f} epochs"
    )  # fmt: skip
    told = [
        f"{recipe.name}: a step of {step['at_once']} pairs at once on each of {ranks} processes is "
        f"sound: pixels {step['pixels']}, tokens {step['token_ids']}, features "
        f"{step['features'][0]}, {step['trained_parameters']:,} parameters updated "
        f"({step['seconds']} s)",
        f"data: {seen}",
        *(f"{name}: {line}" for name, line in found["commands"].items()),
    ]
    run.result(found, "\n".join(told))


def _look(recipe: Recipe, ranks: int) -> dict[str, Any] | None:
    """The data that is named: opened, counted, and some of it decoded."""
    if not recipe.data:
        return None
    from mmfm.training.pretrain import HeldOut, open_data

    dataset = open_data(recipe, ranks)
    HeldOut(recipe, dataset, 64).batch(0)  # not held out: some that are trained on
    held_out = None
    if recipe.held_out:
        pairs = HeldOut.open(recipe)
        pairs.batch(0)
        held_out = pairs.count
    return {
        "samples": len(dataset), "shards": len(dataset.shards), "held_out": held_out,
        "epochs": recipe.samples_seen / len(dataset), "fingerprint": dataset.fingerprint(),
    }  # fmt: skip


def commands(recipe: Recipe, arguments: list[str]) -> dict[str, str]:
    """The same run alone, by torchrun on every node, and as one line of SLURM."""
    call = "mmfm train " + shlex.join(arguments)
    nodes, gpus = recipe.cluster.nodes, recipe.cluster.gpus
    if nodes * gpus == 1:
        return {"run": call}
    if nodes == 1:
        return {"run": f"torchrun --standalone --nproc-per-node={gpus} -m {call}"}
    many = (
        f"torchrun --nnodes={nodes} --nproc-per-node={gpus} --rdzv-backend=c10d "
        f"--rdzv-endpoint={{}}:29500 --rdzv-id={recipe.name} -m {call}"
    )
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    return {
        "run on every node": many.format("$FIRST_NODE"),
        "slurm": f"srun --nodes={nodes} --ntasks-per-node=1 --gpus-per-node={gpus} "
        f"--cpus-per-task={gpus * (recipe.workers + 1)} " + many.format(first),
    }


def _train(ctx: click.Context, run: Run, recipe: Recipe, output: str) -> None:
    from mmfm.training.pretrain import pretrain

    first = os.environ.get("RANK", "0") == "0"
    try:
        summary = pretrain(recipe, output, device=run.device)
    except InputError:
        if first:
            raise
        ctx.exit(2)  # the first process says it for all
    if first:
        figures = lines_of(summary["held_out"]) or ["nothing was measured: no held_out was given"]
        run.result(summary, "\n".join([*figures, f"the model is {summary['bundle']}"]))
