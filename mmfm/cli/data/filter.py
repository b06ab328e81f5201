"""`mmfm data filter`: shards in, filters in a fixed order, shards and an account out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, shared

if TYPE_CHECKING:
    from mmfm.data.dataset import ShardDataset
    from mmfm.data.filters import Filter, Report

FILE = click.Path(dir_okay=False)
SHARE = click.FloatRange(0, 1)


@click.command("filter")
@click.argument("shards", nargs=-1, required=True, metavar="SHARDS...")
@click.option("-o", "--output", help="New folder: shards/, manifest.json, dropped.jsonl.")
@click.option("--report-only", is_flag=True, help="Only count; nothing is written.")
@click.option(
    "--opt-out-column",
    "opt_out_columns",
    multiple=True,
    metavar="NAME",
    help="Meta field that opts a sample out, beside the usual ones; repeatable.",
)
@click.option("--keep-opted-out", is_flag=True, help="Do not look for opt-outs.")
@click.option("--block-hashes", type=FILE, help="List of sha256 of pictures, one a line.")
@click.option("--block-urls", type=FILE, help="List of domains and URLs, one a line.")
@click.option(
    "--url-column",
    "url_columns",
    multiple=True,
    metavar="NAME",
    help="Meta field of the address; repeatable. Default: url, image_url, source_url.",
)
@click.option("--min-side", type=click.IntRange(1), help="Least pixels of the shorter side.")
@click.option("--max-aspect", type=click.FloatRange(1), help="Longer over shorter side, at most.")
@click.option(
    "--clean-captions",
    is_flag=True,
    help="No file names, URLs, HTML, boilerplate, or one word over and over.",
)
@click.option("--min-words", type=click.IntRange(0), help="Least words of a caption.")
@click.option("--max-words", type=click.IntRange(1), help="Most words of a caption.")
@click.option("--min-letters", type=SHARE, help="Least share of letters in a caption.")
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    help="Language hinted at, such as en; repeatable. A hint, not a judge.",
)
@click.option("--language-strict", is_flag=True, help="Drop captions without a clear hint too.")
@click.option(
    "--max-same-caption",
    type=click.IntRange(1),
    metavar="K",
    help="Take out captions that more than K samples carry.",
)
@click.option("--exact-duplicates", is_flag=True, help="Drop pictures with equal bytes.")
@click.option("--near-duplicates", is_flag=True, help="Drop pictures that look nearly the same.")
@click.option("--hash-distance", type=click.IntRange(0, 16), help="Bits of 64 that may differ [8].")
@click.option(
    "--sketch-difference",
    type=SHARE,
    help="Largest local difference of near pictures, of the contrast [0.12].",
)
@click.option(
    "--score-min",
    type=click.FloatRange(-1, 1),
    help="Least cosine of picture and first caption, by --model.",
)
@click.option("--score-keep", type=SHARE, help="Keep this share with the best scores.")
@click.option(
    "--embedding-duplicates",
    type=SHARE,
    metavar="COSINE",
    help="Drop pictures with such a cosine to one that stays, by --model.",
)
@click.option("--store", help="Embedding store to take vectors of --model from.")
@click.option("--rekey", is_flag=True, help="Number the samples that stay.")
@click.option("--shard-size", type=click.IntRange(1), default=2000, show_default=True)
@click.option(
    "--max-bad",
    type=SHARE,
    default=0.01,
    show_default=True,
    help="Stop when more than this share cannot be read.",
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that read and hash.")
@shared
def command(run: Run, **options: Any) -> None:  # fmt: skip
    """Keep what is good and new of SHARDS, and write down what was dropped and why.

    Filters work in this order, whatever the order of the options, each on what the ones before let
    through: readable, opt-out, blocked-hash, blocked-url, size, caption, language,
    repeated-caption, exact-duplicate, near-duplicate, score, embedding-duplicate. Opt-outs are
    always looked for; the others only when asked for. Of duplicates the first stays.
    """
    _expect_fitting(options)
    from mmfm.data.bad import BadSamples
    from mmfm.data.dataset import ShardDataset
    from mmfm.data.filters import filter_shards
    from mmfm.data.filters.pipeline import expect_free

    if options["output"]:
        expect_free(options["output"])  # before an hour of indexing, not after
    filters = _sample_filters(options)  # before the data: they say what is wrong with the options
    bad = BadSamples("skip", options["max_bad"])
    dataset = ShardDataset.open(list(options["shards"]), bad=bad)
    filters += _set_filters(options)
    filters += _model_filters(run, options, dataset, filters)
    output = None if options["report_only"] else options["output"]
    report = filter_shards(
        dataset, filters, output, bad=bad, workers=options["workers"],
        max_count=options["shard_size"], rekey=options["rekey"], progress=run.progress,
        command={name: value for name, value in options.items() if value not in (None, False, ())},
    )  # fmt: skip
    for words in report.warnings:
        run.say(f"warning: {words}")
    run.result({"output": output, **report.facts()}, _lines(report, output))


def _expect_fitting(options: dict[str, Any]) -> None:
    if not options["report_only"] and not options["output"]:
        raise click.UsageError("give -o FOLDER, or --report-only to count only")
    if options["report_only"] and options["output"]:
        raise click.UsageError("--report-only writes nothing: leave out -o")
    needs = {
        "url_columns": "block_urls", "language_strict": "languages",
        "hash_distance": "near_duplicates", "sketch_difference": "near_duplicates",
    }  # fmt: skip
    for name, other in needs.items():
        if options[name] not in (None, False, ()) and not options[other]:
            raise click.UsageError(f"{_option(name)} is of use only with {_option(other)}")
    if options["opt_out_columns"] and options["keep_opted_out"]:
        raise click.UsageError("--opt-out-column and --keep-opted-out contradict each other")
    if options["store"] and not _wants_model(options):
        raise click.UsageError("--store is of use only with --score-* or --embedding-duplicates")


def _option(name: str) -> str:
    names = {"url_columns": "url-column", "languages": "language"}
    return "--" + names.get(name, name.replace("_", "-"))


def _wants_model(options: dict[str, Any]) -> bool:
    names = ("score_min", "score_keep", "embedding_duplicates")
    return any(options[name] is not None for name in names)


def _sample_filters(options: dict[str, Any]) -> list[Filter]:
    from mmfm.data.filters import (
        CaptionFilter,
        HashBlocklist,
        LanguageFilter,
        OptOutFilter,
        SizeFilter,
        UrlBlocklist,
    )

    filters: list[Filter] = []
    if not options["keep_opted_out"]:
        filters.append(OptOutFilter(options["opt_out_columns"]))
    if options["block_hashes"]:
        filters.append(HashBlocklist(options["block_hashes"]))
    if options["block_urls"]:
        columns = options["url_columns"]
        filters.append(
            UrlBlocklist(options["block_urls"], **({"columns": columns} if columns else {}))
        )
    if size := _given(options, "min_side", "max_aspect"):
        filters.append(SizeFilter(**size))
    caption = _given(options, "min_words", "max_words", "min_letters")
    if caption or options["clean_captions"]:
        filters.append(CaptionFilter(clean=options["clean_captions"], **caption))
    if options["languages"]:
        filters.append(LanguageFilter(options["languages"], not options["language_strict"]))
    return filters


def _set_filters(options: dict[str, Any]) -> list[Filter]:
    from mmfm.data.filters import ExactDuplicates, NearDuplicates, RepeatedCaptions

    filters: list[Filter] = []
    if options["max_same_caption"] is not None:
        filters.append(RepeatedCaptions(options["max_same_caption"]))
    if options["exact_duplicates"]:
        filters.append(ExactDuplicates())
    if options["near_duplicates"]:
        told = {"distance": options["hash_distance"], "difference": options["sketch_difference"]}
        filters.append(NearDuplicates(**{k: v for k, v in told.items() if v is not None}))
    return filters


def _model_filters(
    run: Run, options: dict[str, Any], dataset: ShardDataset, before: list[Filter]
) -> list[Filter]:
    if not _wants_model(options):
        return []
    from mmfm.data.filters import EditedSamples, EmbeddingDuplicates, ScoreFilter
    from mmfm.jobs.embed import open_store
    from mmfm.jobs.scores import PairScores

    model = run.load()
    store = open_store(options["store"], model) if options["store"] else None
    read = EditedSamples(dataset, list(before)).read
    pairs = PairScores(model, read, store=store, progress=run.progress)
    filters: list[Filter] = []
    if options["score_min"] is not None or options["score_keep"] is not None:
        filters.append(ScoreFilter(pairs.scores, pairs.facts(), minimum=options["score_min"],
                                   keep=options["score_keep"]))  # fmt: skip
    if options["embedding_duplicates"] is not None:
        filters.append(
            EmbeddingDuplicates(options["embedding_duplicates"], pairs.vectors, pairs.facts())
        )
    return filters


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _lines(report: Report, output: str | None) -> str:
    lines = [f"{report.found} samples, {report.kept} kept"]
    for account in report.accounts:
        reasons = ", ".join(f"{name} {count}" for name, count in account.reasons.most_common())
        line = f"  {account.name:20} {account.before:>9} -> {account.before - account.dropped:<9}"
        taken = f"; {account.captions} captions taken out" if account.captions else ""
        lines.append(f"{line} {reasons or '-'}{taken}")
    if output is not None:
        lines.append(f"{output}: shards, manifest.json, dropped.jsonl")
    return "\n".join(lines)
