"""`mmfm index`: a folder of pictures becomes an index that `mmfm search` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, given, shared
from mmfm.preprocess.folder import list_images

if TYPE_CHECKING:
    from mmfm.model import MMFM


@click.command("index")
@click.argument("folder")
@click.option("-o", "--output", required=True, help="Where the index is kept.")
@click.option("--store", help="Take vectors that are in this store (see `mmfm data embed`).")
@click.option("--precision", help="How the model computes: auto (default), fp32, bf16, int8, onnx.")
@click.option("--fast", is_flag=True, help="Decode large JPEGs at a smaller scale.")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures in one pass of the model.")
@click.option(
    "--engine", help="Keep the rows there: faiss:FOLDER, lance:FOLDER or postgresql://HOST/DB."
)
@shared
def command(
    run: Run, folder: str, output: str, store: str | None, precision: str | None, fast: bool,
    batch_size: int | None, engine: str | None,
) -> None:  # fmt: skip
    """Index a folder of pictures; a second run embeds only what is new or changed.

    A run that is stopped is gone on with by the next; until then a search sees the former index.
    Pictures that cannot be read are listed at every run, and read again when they change.
    """
    list_images(folder)  # why: a folder without pictures is told before a model is loaded
    if store is not None:
        from mmfm.data.store import expect_store

        expect_store(store)
    model = run.load()

    from mmfm.index import Index

    options = given(
        precision=precision, decode="fast" if fast else None, batch_size=batch_size,
        known=None if store is None else _known(run, store, model),
        engine=None if engine is None else _engine(engine, model),
    )  # fmt: skip
    report = Index.build(model, folder, path=output, progress=run.progress, **options).report
    for line in _told(report):
        run.say(line)
    counts = {name: report[name] for name in ("added", "changed", "kept", "removed")}
    if store is not None:
        counts["reused"] = report["reused"]
    skipped = [{"path": path, "reason": reason} for path, reason in report["skipped"]]
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    rest = {name: report[name] for name in ("resumed", "rebuilt", "notes")}
    run.result(
        {"index": output, **counts, "skipped": skipped, **rest},
        f"{output}: {words}, {len(skipped)} skipped",
    )


def _told(report: dict[str, Any]) -> list[str]:
    """What people should know of a build besides its counts."""
    told = []
    if report["rebuilt"]:
        told.append(f"built anew: {report['rebuilt']}")
    if report["resumed"]:
        told.append(f"went on after an interrupted run that had done {report['resumed']} pictures")
    told += report["notes"]
    return told + [f"skipped {path}: {reason}" for path, reason in report["skipped"]]


def _known(run: Run, store: str, model: MMFM) -> Any:
    """What the store has of pictures, by their sha256."""
    from mmfm.jobs.embed import open_store

    kept = open_store(store, model)
    if not kept.size("pooled").rows:
        run.say(f"{store} holds no vectors of {model.name}: all pictures are embedded here")
    return kept.found


def _engine(url: str, model: MMFM) -> Any:
    from mmfm.index.engines import open_engine

    return open_engine(url, dim=model.embed_dim, create=True)
