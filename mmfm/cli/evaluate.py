"""`mmfm evaluate`: every figure of a model on shards it was not trained on."""

from __future__ import annotations

import click

from mmfm.cli.info import lines_of
from mmfm.cli.options import Run, shared


@click.command("evaluate")
@click.option("--data", required=True, help="Folder of shards, such as data/drawings/test.")
@click.option("--sets", help="Only samples of these sets, by comma.")
@click.option("--gallery", type=click.IntRange(2), default=1000, show_default=True,
              help="Pictures that retrieval searches.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Use so many samples, drawn with the seed.")
@shared
def command(run: Run, data: str, sets: str | None, gallery: int, limit: int | None) -> None:
    """Measure retrieval, captions and reconstruction, with chance beside each."""
    from mmfm.data import read_shards
    from mmfm.errors import DataError
    from mmfm.evaluation import evaluate

    samples = list(read_shards(data))
    if sets is not None:
        wanted = {name.strip() for name in sets.split(",")}
        known = {str(sample.meta.get("set")) for sample in samples}
        if wanted - known:
            raise DataError(
                f"{data} has no set {', '.join(sorted(wanted - known))}; it has "
                f"{', '.join(sorted(known))}"
            )
        samples = [sample for sample in samples if sample.meta.get("set") in wanted]
    model = run.load()
    figures = evaluate(
        model, samples, gallery=gallery, seed=run.seed or 0, limit=limit, progress=run.progress,
        parts=("retrieval", "captioning", "reconstruction"),
    )  # fmt: skip
    run.result(figures, "\n".join(lines_of(figures)))
