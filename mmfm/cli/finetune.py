"""`mmfm finetune`: search, captions and generation adapted to a folder of pictures."""

from __future__ import annotations

from typing import Any

import click

from mmfm.cli.options import Run, given, listen, shared
from mmfm.errors import InputError


@click.command("finetune")
@click.argument("folder", metavar="FOLDER")
@click.option("-o", "--output", required=True, metavar="MODEL", help="Folder of the new model.")
@click.option("--heads", default="contrastive,caption,decoder", show_default=True,
              help="Skills that adapt, by comma; or prompt alone.")  # fmt: skip
@click.option("--train", metavar="WHAT", help="heads (towers frozen), blocks:N (the last N of each "
              "tower), lora, all.  [from the size of data and model]")  # fmt: skip
@click.option("--lora", is_flag=True, help="Learn low-rank changes of every part; MODEL becomes an "
              "adapter of a few MB.")  # fmt: skip
@click.option("--rank", type=click.IntRange(1), help="Of the low-rank changes.  [8]")
@click.option("--original", metavar="SHARDS", help="Pictures that the model knows: what is kept, "
              "and measured.  [for mini the drawings in the package]")  # fmt: skip
@click.option("--holdout", type=float, help="Share of the pictures only measured.  [0.1]")
@click.option("--steps", type=click.IntRange(1), help="Of the towers.  [ten times over the set]")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures of a step.")
@click.option("--learning-rate", type=float, help="Of the towers.")
@click.option("--replay", type=float, help="Share of original pictures in a step.  [0.25]")
@click.option("--keep", type=float, help="How strongly towers are held to what they were.  [1]")
@click.option("--mix", type=float, help="Share of the new weights.  [chosen by what it gains and "
              "loses]")  # fmt: skip
@click.option("--patience", type=click.IntRange(1), help="Evaluations without a gain.  [4]")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of the training.")
@click.option("--layout", "kind", help="Of FOLDER, as in `mmfm data inspect`.")
@click.option("--plan", is_flag=True, help="Say what it takes. Trains nothing.")
@shared
def command(
    run: Run, folder: str, output: str, heads: str, plan: bool, original: str | None,
    kind: str | None, lora: bool, **options: Any,
) -> None:  # fmt: skip
    """Adapt search, captions and generation to the pictures in FOLDER, with or without captions.

    A tenth of the pictures is held out; MODEL/report.html shows the figures before and after, on
    them and on what the model could do before. The same command goes on with a run broken off.

    Example: mmfm finetune my_pictures -o my_model
    """
    from mmfm.finetuning import prepare_finetune
    from mmfm.finetuning.settings import heads_from

    listen()
    if run.device not in (None, "cpu"):
        raise InputError(f"fine-tuning runs on the CPU, got --device {run.device}; leave it out")
    settings = {**given(**options, seed=run.seed), "heads": heads_from(heads)}
    model: Any = run.model
    if run.allow_pickle:
        import mmfm

        model = mmfm.load(run.model, device="cpu", allow_pickle=True)
    prepared = prepare_finetune(
        model, images=folder, output=output, original=original, kind=kind, lora=lora, say=run.say,
        **settings,
    )  # fmt: skip
    if plan:
        run.result(prepared.plan.to_dict(), "\n".join(prepared.plan.lines()))
        return
    for line in prepared.plan.lines():
        run.say(line)
    report = prepared.run(run.say)
    lines = [*report.lines(), f"the model is {report.model}, the report {report.page}"]
    run.result(report.to_dict(), "\n".join(lines))
