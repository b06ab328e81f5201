"""`mmfm index`: a folder of pictures becomes an index that `mmfm search` reads."""

from __future__ import annotations

import click

from mmfm.cli.options import Run, shared
from mmfm.preprocess.folder import list_images


@click.command("index")
@click.argument("folder")
@click.option("-o", "--output", required=True, help="Where the index is kept.")
@click.option("--store", help="Take vectors that are in this store (see `mmfm data embed`).")
@shared
def command(run: Run, folder: str, output: str, store: str | None) -> None:
    """Index a folder of pictures; a second run embeds only what is new or changed."""
    list_images(folder)  # why: a folder without pictures is told before a model is loaded
    if store is not None:
        from mmfm.data.store import expect_store

        expect_store(store)
    model = run.load()

    from mmfm.index import Index

    known = None
    if store is not None:
        from mmfm.jobs.embed import open_store

        kept = open_store(store, model)
        known = kept.found
        if not kept.size("pooled").rows:
            run.say(f"{store} holds no vectors of {model.name}: all pictures are embedded here")
    build = Index.build(model, folder, path=output, progress=run.progress, known=known)
    report = build.report
    if report["rebuilt"]:
        run.say(f"built anew: {report['rebuilt']}")
    for path, reason in report["skipped"]:
        run.say(f"skipped {path}: {reason}")
    counts = {name: report[name] for name in ("added", "changed", "kept", "removed")}
    if store is not None:
        counts["reused"] = report["reused"]
    skipped = [{"path": path, "reason": reason} for path, reason in report["skipped"]]
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    run.result(
        {"index": output, **counts, "skipped": skipped, "rebuilt": report["rebuilt"]},
        f"{output}: {words}, {len(skipped)} skipped",
    )
