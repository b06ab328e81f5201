"""Which layout a path holds: one rule after the other, and the rule is said aloud."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmfm.data.layouts.columns import Columns, find_columns, has_urls
from mmfm.data.layouts.embedded import ParquetPictures, picture_column
from mmfm.data.layouts.layout import Layout
from mmfm.data.layouts.named import Names
from mmfm.data.layouts.pictures import (
    ClassFolder,
    PictureFolder,
    SidecarFolder,
    are_classes,
    sidecar_of,
)
from mmfm.data.layouts.rows import SUFFIXES, columns_of, read_rows
from mmfm.data.layouts.table import TableLayout
from mmfm.data.layouts.tars import TarLayout
from mmfm.errors import DataError
from mmfm.preprocess.folder import IMAGE_SUFFIXES, list_images

KINDS = ("tars", "table", "txt", "classes", "pictures")
UNDERSTOOD = (
    "a folder of pictures (alone, each with a .txt of the same name, or in sub-folders named by"
    " class); captions.csv, .tsv, .jsonl, .parquet or metadata.jsonl with columns file_name and"
    " text beside pictures; webdataset or img2dataset .tar files; parquet with pictures inside"
)
STANDARD = tuple(
    f"{stem}{suffix}"
    for stem in ("metadata", "captions")
    for suffix in (".jsonl", ".csv", ".tsv", ".parquet", ".json", ".txt")
)
_FREE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # may be called anything
_ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_LOOK = 20  # rows of a table, and pictures, that are looked at to tell a layout


def open_layout(
    path: str | os.PathLike[str], *, kind: str | None = None, images: str | Path | None = None
) -> Layout:
    """What `path` holds: a folder, a table, a .tar, a pattern of tars, or a URL of them.

    The first that fits is taken: tars; a table that names pictures; a `.txt` beside a picture;
    sub-folders as classes; bare pictures. `layout.notes` says what was passed over.

    kind: one of `KINDS`, to take another one than the rule does. images: the folder that the names
    of a table start from, when it is not the table's own.
    Raises DataError, in one sentence, when nothing fits or several data sets lie side by side.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"there is no layout {kind!r}; there are {', '.join(KINDS)}")
    if images is not None and not Path(images).is_dir():
        raise DataError(f"there is no folder {images} of pictures")
    try:
        return _open(os.fspath(path), kind, Path(images) if images else None)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _open(text: str, kind: str | None, images: Path | None) -> Layout:
    if "://" in text:
        return TarLayout(text)
    if not os.path.exists(text):
        return _of_pattern(text)
    path = Path(text)
    if path.is_file():
        return _of_file(path, images)
    layout = _of_folder(path, kind, images)
    if layout is None and kind is not None:
        raise DataError(f"{path} holds no layout `{kind}`; without --layout it says what it is")
    if layout is None:
        raise DataError(f"{path} holds {_contents(path)}; wanted {UNDERSTOOD}")
    return layout


def _of_pattern(text: str) -> Layout:
    files = sorted(Path(file) for file in glob.glob(text))
    if files and all(file.suffix == ".parquet" for file in files):
        if column := picture_column(files[0]):
            return ParquetPictures(files[0].parent, files, column)
        raise DataError(f"{text} matches tables, and one is read at a time; give one of them")
    if "{" in text or (files and all(file.suffix == ".tar" for file in files)):
        return TarLayout(text)
    if files:
        raise DataError(f"{text} matches {_listed(map(str, files))}; give one folder, or tars only")
    raise DataError(f"there is nothing at {text}; check the path")


def _of_file(path: Path, images: Path | None) -> Layout:
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return TarLayout(path)
    if suffix in _ARCHIVES:
        raise DataError(f"{path} is an archive; unpack it and give the folder")
    if suffix in IMAGE_SUFFIXES:
        raise DataError(f"{path} is one picture; give the folder that it lies in")
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is no data that is understood; wanted {UNDERSTOOD}")
    if suffix == ".parquet" and (column := picture_column(path)):
        return ParquetPictures(path.parent, [path], column)
    names = columns_of(path)
    columns = find_columns(names)
    if columns is None:
        raise _no_column(path, names)
    return TableLayout(path, columns, images)


def _no_column(path: Path, names: list[str]) -> DataError:
    if has_urls(names):
        return DataError(
            f"{path} names its pictures by URL only; download them first, for example with"
            f" img2dataset --url_list {path.name} --output_format webdataset, and give that folder"
        )
    plain = [" ".join(name.split()) for name in names]
    found = f"columns {', '.join(plain)}" if names else "no rows"
    return DataError(
        f"{path} has {found}; wanted one that names the picture (such as file_name) and one with"
        " what is said of it (such as text)"
    )


def _of_folder(root: Path, kind: str | None, images: Path | None) -> Layout | None:
    if kind in (None, "tars") and (layout := _tars(root)):
        return layout
    if kind in (None, "table") and (layout := _table(root, images, is_wanted=kind is not None)):
        return layout
    if kind in (None, "tars", "table") and (layout := _below(root, kind)):
        return layout
    return _pictures(root, kind)


def _tars(root: Path) -> Layout | None:
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_file())
    if not any(name.endswith(".tar") for name in names):
        return None
    layout = TarLayout(root)
    beside = [name for name in names if name.lower().endswith((*_FREE, "_stats.json"))]
    if any(name.endswith("_stats.json") for name in beside):
        layout.name = "img2dataset tars"
    if beside:
        layout.notes.append(
            f"{_listed(beside)} beside the tars not read: the tars hold the same samples"
        )
    if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
        layout.notes.append("pictures beside the tars not read; --layout pictures takes them alone")
    return layout


def _table(root: Path, images: Path | None, *, is_wanted: bool) -> Layout | None:
    """The table of a folder: by its standard name, or the only one that names pictures there."""
    names = {entry.name for entry in os.scandir(root) if entry.is_file()}
    standard = [root / name for name in STANDARD if name in names]
    standard = [path for path in standard if path.suffix != ".txt" or _names_pictures(path, images)]
    others = sorted(root / name for name in names if name.lower().endswith(_FREE))
    others = [path for path in others if path not in standard]
    if standard:
        return _one_table(root, standard[0], [*standard[1:], *others], images)
    inside = [path for path in others if path.suffix == ".parquet" and picture_column(path)]
    if inside:
        return _parquets(root, inside)
    tables = [path for path in others if _names_pictures(path, images)]
    if len(tables) > 1:
        raise _several(root, [path.name for path in tables], "tables")
    if tables:
        return _one_table(root, tables[0], [path for path in others if path != tables[0]], images)
    if others and (is_wanted or not _first_pictures(root)):
        raise _no_column(others[0], columns_of(others[0]))
    return None


def _names_pictures(path: Path, images: Path | None) -> bool:
    """Whether the first rows of a table name a picture that is there."""
    try:
        rows = list(itertools.islice(read_rows(path), _LOOK))
    except DataError:
        return False
    columns = find_columns(list(next((row.cells for row in rows if not row.wrong), {})))
    names = Names(images or path.parent)
    return columns is not None and any(_is_found(row.cells, columns, names) for row in rows)


def _is_found(cells: dict, columns: Columns, names: Names) -> bool:
    return not names.find(str(cells.get(columns.file) or ""))[1]


def _one_table(root: Path, table: Path, others: list[Path], images: Path | None) -> Layout:
    layout = _of_file(table, images)
    if others:
        layout.notes.append(f"not read: {_listed(path.name for path in others)}; one table is")
    if isinstance(layout, TableLayout):
        layout.tells_unnamed = True
    if any(sidecar_of(picture) for picture in _first_pictures(root)):
        layout.notes.append(
            "the .txt files beside pictures are not read: a table goes before them; --layout txt"
            " takes them instead"
        )
    return layout


def _parquets(root: Path, files: list[Path]) -> Layout:
    splits = sorted({file.name.partition("-")[0] for file in files})
    if len(splits) > 1:
        patterns = [f"'{root}/{split}-*.parquet'" for split in splits]
        raise DataError(f"{root} holds several splits; give one: {_listed(patterns)}")
    column = picture_column(files[0])
    assert column is not None
    return ParquetPictures(root, files, column)


def _below(root: Path, kind: str | None) -> Layout | None:
    """The one sub-folder that holds tars or a table; its table may name pictures outside of it."""
    found: list[Layout] = []
    for sub in sorted(entry.path for entry in os.scandir(root) if entry.is_dir()):
        if Path(sub).name.startswith("."):
            continue
        names = {entry.name for entry in os.scandir(sub) if entry.is_file()}
        layout = None
        if kind != "table" and any(name.endswith(".tar") for name in names):
            layout = _tars(Path(sub))
        elif kind != "tars" and any(
            name in STANDARD or name.lower().endswith(_FREE) for name in names
        ):
            layout = _table(Path(sub), root, is_wanted=False)
        if layout:
            layout.notes.append(f"taken from the sub-folder {Path(sub).name}")
            found.append(layout)
    if len(found) > 1:
        raise _several(
            root, [note.split()[-1] for note in (one.notes[-1] for one in found)], "data sets"
        )
    return found[0] if found else None


def _several(root: Path, names: list[str], what: str) -> DataError:
    first = root / names[0]
    return DataError(f"{root} holds several {what}: {_listed(names)}; give one, such as {first}")


def _pictures(root: Path, kind: str | None) -> Layout | None:
    if kind in ("tars", "table"):
        return None
    try:
        files = list_images(root)
    except DataError:
        return None
    if kind == "txt" or (kind is None and any(sidecar_of(file) for file in files)):
        return SidecarFolder(root, files)
    if kind == "classes" or (kind is None and are_classes(root, files)):
        layout: Layout = ClassFolder(root, files)
        layout.notes.append(
            "the sub-folders are taken as class names; --layout pictures takes them as no captions"
        )
        return layout
    return PictureFolder(root, files)


def _first_pictures(root: Path) -> list[Path]:
    try:
        return list_images(root)[:_LOOK]
    except DataError:
        return []


def _contents(root: Path) -> str:
    """What a folder holds, by suffix, in words."""
    names = (name for _, _, files in os.walk(root) for name in files if not name.startswith("."))
    kinds = Counter(
        Path(name).suffix.lower() or "no suffix" for name in itertools.islice(names, 10**5)
    )
    if not kinds:
        return "no files"
    return "only files of " + _listed(f"{kind} ({count})" for kind, count in kinds.most_common(5))


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
