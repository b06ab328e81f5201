"""`compute.json` of a bundle: parameters, operations, and what its training took; the card too.

    python -m train.compute mmfm/weights/mini --stages train/mini_stages.json

--stages is a list of objects, one a stage: {"name", "samples", "trained": {operation: times a
sample}, "run": {...}, "cpu_seconds", "how", "hardware"}, or with "log": a run's folder in place of
what the log tells. Operations are image_embedding, text_embedding, caption_token, pixel_decoding,
network_evaluation (`mmfm.training.compute`); what is trained counts three times forward, what only
runs once. Nothing of the weights changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmfm.bundle import find, seal
from mmfm.durable import replacing
from mmfm.errors import InputError, ModelError
from mmfm.papers import COMPUTE
from mmfm.training.compute import WATTS, compute, read_stages


@click.command()
@click.argument("bundle")
@click.option("--stages", type=click.Path(path_type=Path), help="JSON as above.  [not recorded]")
@click.option("--watts", nargs=2, type=float, default=WATTS, show_default=True,
              help="Of a core, least and most; an assumption.")  # fmt: skip
def main(bundle: str, stages: Path | None, watts: tuple[float, float]) -> None:
    """Count what the model of BUNDLE costs and write it there, with a new card and manifest."""
    import mmfm

    try:
        folder = find(bundle)
        if folder is None:
            raise ModelError(f"{bundle} is no mmfm bundle; wanted a folder or a model that ships")
        told = [] if stages is None else read_stages(stages)
        found = compute(mmfm.load(folder, device="cpu"), told, watts=watts)
        with replacing(folder / COMPUTE) as file:
            file.write((json.dumps(found, indent=2) + "\n").encode())
        seal(folder)
        click.echo(json.dumps(found, indent=2))
    except InputError as error:
        click.echo(f"train.compute: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
