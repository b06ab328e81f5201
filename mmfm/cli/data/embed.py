"""`mmfm data embed`: every picture of some shards is embedded once, and kept by its content."""

from __future__ import annotations

from typing import Any

import click

from mmfm.cli.options import Run, shared
from mmfm.errors import InputError


@click.command("embed")
@click.argument("shards", nargs=-1, required=True, metavar="SHARDS...")
@click.option("-o", "--output", required=True, help="Folder of the store; made if need be.")
@click.option("--grids", is_flag=True, help="Keep the image tokens too.")
@click.option("--texts", is_flag=True, help="Keep a vector of every caption too.")
@click.option("--ray", "use_ray", is_flag=True, help="Spread the shards over a Ray cluster.")
@click.option("--ray-address", help="Of that cluster; default: RAY_ADDRESS, or one made here.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, help="Threads that decode pictures.")
@click.option("--on-bad", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
              help="What becomes of samples that cannot be used.")  # fmt: skip
@click.option("--max-bad", type=click.FloatRange(0, 1), default=0.01, show_default=True,
              help="Stop when more than this share is bad.")  # fmt: skip
@click.option("--check", is_flag=True, help="First compare every stored byte with its hash.")
@shared
def command(
    run: Run, shards: tuple[str, ...], output: str, grids: bool, texts: bool, use_ray: bool,
    ray_address: str | None, batch_size: int, workers: int, on_bad: str, max_bad: float,
    check: bool,
) -> None:  # fmt: skip
    """Embed shards into a store that indexes and trainings read from.

    A second run embeds only what is new: pictures are known by their bytes, vectors by the model
    that made them. With --ray, every machine must reach SHARDS, the store and the model under the
    same names.
    """
    from mmfm.cli.outputs import writable_folder
    from mmfm.data.bad import BadSamples
    from mmfm.data.store import EmbeddingStore

    writable_folder(output)
    options: dict[str, Any] = {
        "kinds": ("pooled", *(["grid"] if grids else []), *(["text"] if texts else [])),
        "batch_size": batch_size,
        "num_workers": workers,
        "on_bad": BadSamples(on_bad, max_bad),
        "check": check,
        "progress": run.progress,
    }
    if use_ray or ray_address:
        if run.adapter is not None:
            raise InputError(
                "--adapter does not go with --ray; save the model with the adapter in it "
                "(mmfm.load(..., adapter=FOLDER).save_pretrained(BUNDLE)) and name that bundle"
            )
        from mmfm.jobs.ray import ray_embed_shards

        report = ray_embed_shards(run.model, list(shards), output, address=ray_address,
                                  device=run.device, **options)  # fmt: skip
    else:
        from mmfm.jobs.embed import embed_shards

        report = embed_shards(run.load(), list(shards), output, **options)
    for error in report.bad:
        run.say(f"left out: {error}")
    for reason in report.damaged.values():
        run.say(f"made again: {reason}")
    kept = EmbeddingStore(output, report.identity).describe()
    made = ", ".join(f"{count} {kind}" for kind, count in report.embedded.items() if count)
    run.result(
        {"store": output, **report.as_dict(), **kept},
        f"{output}: {report.samples} samples in {report.shards} shards, embedded now: "
        f"{made or 'nothing, all were there'}; {len(report.bad)} left out",
    )
