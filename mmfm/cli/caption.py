"""`mmfm caption`: pictures become words, on the screen, in .txt files beside them, on a sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, given, shared
from mmfm.cli.outputs import writable_file
from mmfm.cli.pictures import SUFFIXES, expand
from mmfm.cli.stored import is_stored, read_stored
from mmfm.errors import OutputError

if TYPE_CHECKING:
    from mmfm.model import MMFM

_AT_ONCE = 64  # pictures captioned before their .txt files are written


@click.command("caption")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--prompt", default="", help="Words that every caption begins with, or a question.")
@click.option("--ports", type=click.Choice(["both", "grid", "pooled"]), default="both",
              show_default=True, help="What the head reads of a picture.")  # fmt: skip
@click.option("--num-captions", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--num-beams", type=click.IntRange(1, 64), help="Beam search of this width.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from this share.")
@click.option("--top-k", type=click.IntRange(1), help="Draw from so many tokens.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Of the draws.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest caption.")
@click.option("--min-tokens", type=click.IntRange(0), help="Shortest caption.")
@click.option("--repetition-penalty", type=click.FloatRange(0, min_open=True), help="1 = none.")
@click.option("--write-txt", is_flag=True, help="Leave a .txt beside each picture without one.")
@click.option("--overwrite", is_flag=True, help="Let --write-txt replace .txt files.")
@click.option("--sheet", metavar="FILE", help="Also draw the pictures with their captions.")
@shared
def command(
    run: Run, sources: tuple[str, ...], num_captions: int, write_txt: bool, overwrite: bool,
    sheet: str | None, prompt: str, ports: str, **options: Any,
) -> None:  # fmt: skip
    """Describe pictures in words.

    SOURCE is a picture, a folder of them, or their vectors: an index, a store of `mmfm data embed`,
    a .npz of `mmfm embed`. With --write-txt, pictures that have a .txt are left alone, so that the
    same call goes on where it was stopped.
    """
    stored = [source for source in sources if is_stored(source)]
    paths = expand(source for source in sources if source not in stored)
    if stored and (write_txt or sheet):
        raise click.UsageError(
            f"'{stored[0]}' holds vectors: --write-txt and --sheet want pictures"
        )
    target = None if sheet is None else writable_file(sheet, SUFFIXES)
    if write_txt:
        paths = _without_txt(run, paths, overwrite)
    how = {"prompt": prompt, "num_captions": num_captions, "seed": run.seed, **given(**options)}
    found: list[dict[str, Any]] = []
    if paths or stored:
        model = run.load()
        for path, texts in _of_pictures(run, model, paths, {**how, "ports": ports}):
            found.append({"path": path, "captions": texts})
            if write_txt:
                _txt(path).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        for source in stored:
            names, vectors = read_stored(source, model)
            said = model.caption(embeddings=vectors, **how)
            found += [{"path": name, "captions": _several(one)} for name, one in zip(names, said)]
    if write_txt:
        run.say(f"{len(paths)} .txt files written beside their pictures")
    if target is not None and found:
        _draw(found, target)
        run.say(f"the captions are drawn in '{target}'")
    run.result(found, "\n".join(f"{one['path']}\t{' | '.join(one['captions'])}" for one in found))


def _of_pictures(
    run: Run, model: MMFM, paths: list[str], how: dict[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """Path and captions of each picture, a few pictures at a time."""
    from tqdm import tqdm

    with tqdm(total=len(paths), disable=not run.progress, desc="captions", leave=False) as bar:
        for start in range(0, len(paths), _AT_ONCE):
            part = paths[start : start + _AT_ONCE]
            yield from zip(part, map(_several, model.caption(part, **how)))
            bar.update(len(part))


def _several(said: str | list[str]) -> list[str]:
    return [said] if isinstance(said, str) else said


def _txt(path: str) -> Path:
    return Path(path).with_suffix(".txt")


def _without_txt(run: Run, paths: list[str], overwrite: bool) -> list[str]:
    """Those to be captioned. Raises OutputError where a .txt cannot be or would be of two."""
    targets: dict[Path, str] = {}
    for path in paths:
        target = writable_file(_txt(path), (".txt",))
        if target in targets:
            raise OutputError(f"'{targets[target]}' and '{path}' share '{target}'; rename one")
        targets[target] = path
    left = [path for path in paths if overwrite or not _txt(path).exists()]
    if len(left) < len(paths):
        run.say(
            f"{len(paths) - len(left)} pictures have a .txt already and are left as they are; "
            "--overwrite replaces it"
        )
    return left


def _draw(found: Iterable[dict[str, Any]], target: Path) -> None:
    from mmfm.cli.sheet import contact_sheet
    from mmfm.preprocess.images import load_image

    pictures = [load_image(one["path"]) for one in found]
    labels = [" | ".join(one["captions"]) for one in found]
    contact_sheet(pictures, labels, columns=min(len(pictures), 8)).save(target)
