"""Drawings of Debian `openclipart-svg` (words) and `openclipart-png` (pictures).

Each SVG carries RDF with title, keywords, author and licence. The title is often that of a whole
series; then the file name speaks. Only files tagged as public domain are taken.
"""

import html
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.captions import clean_text, is_usable
from data_pipelines.drawing import Drawing, SetReport
from data_pipelines.sources.packages import debian_members, fetch_debian

ROOT = "usr/share/openclipart/"
LICENSE = "CC-PDDC"  # Creative Commons Public Domain Dedication and Certification
SERIES = re.compile(
    r"gramastar|part of the flat icon|lemon svg theme|^card$|etiquette icons|aiga.?symbol"
    r"|svg gradient|various cliparts?|svg road signs|gold.theme|^clip ?art\b|^unknown$|^untitled"
    r"|iconset|^open ?clip ?art|^template|^drawing$|^image$|^icons?$",
    re.IGNORECASE,
)
NAMED_SERIES = re.compile(r"^clipart by nicu buculei\s*-\s*", re.IGNORECASE)
DULL_KEYWORDS = re.compile(
    r"^(hash|magick|gramastar|unsorted|special|theme|icons?|clip ?art|svg|.*theme icon"
    r"|.*0x[0-9a-f]+.*|public domain|unchecked|duplicates?)$"
)
DROPPED_FOLDERS = ("special", "unsorted/duplicates", "logos", "shapes/stars")
FLAG_FOLDERS = tuple(
    f"signs_and_symbols/flags/{part}/"
    for part in ("africa", "america", "asia", "europe", "oceania")
)
FOLDER_CAPS = {"computer": 400, "shapes": 200, "buttons": 60}
MAX_PER_STEM = 3  # drawings of one author that differ only by number or colour
FOREIGN = re.compile(
    r"\b(di|del|della|dei|delle|con|una?|uno|il|gli|per|sul|nel|verde|rosso|rossa|giallo|nero|nera"
    r"|el|los|las|de|la|le|les|des|du|und|der|die|das|mit|y|tasto|sangue|icona|freccia)\b"
)


@dataclass(frozen=True)
class Words:
    """What the RDF of one file says."""

    title: str
    author: str
    keywords: tuple[str, ...]
    public_domain: bool


def read_words(svg: str) -> Words:
    """The RDF of an SVG document; empty texts where it has none."""
    found = re.search(r"<rdf:RDF.*?</rdf:RDF>", svg, re.DOTALL)
    rdf = found.group() if found else ""
    creator = re.search(r"<dc:creator.*?</dc:creator>", rdf, re.DOTALL)
    author = re.search(r"<dc:title[^>]*>([^<]*)<", creator.group()) if creator else None
    work = re.sub(r"<dc:(publisher|creator|rights)\b.*?</dc:\1>", "", rdf, flags=re.DOTALL)
    title = re.search(r"<dc:title[^>]*>([^<]*)<", work)
    keywords = re.findall(r"<rdf:li[^>]*>([^<]*)<", work)
    return Words(
        title=html.unescape(title.group(1)).strip() if title else "",
        author=html.unescape(author.group(1)).strip() if author else "",
        keywords=tuple(html.unescape(keyword).strip() for keyword in keywords),
        public_domain=bool(re.search(r"cc:license[^>]*PublicDomain", rdf)),
    )


def name_of(words: Words, stem: str) -> str:
    """A cleaned name: the title, or the file name without its author where that says more."""
    title = NAMED_SERIES.sub("", words.title)
    title = re.sub(r"\s*[\d#]+\s*$", "", title)
    if title and not SERIES.search(words.title):
        return clean_text(re.sub(r"[-_ ]*\d+$", "", title))
    return clean_text(_without_author(stem, words.author))


def _without_author(stem: str, author: str) -> str:
    """`car_jamin_ellis_` -> `car`: the file name ends in the author's name, cut at some length."""
    stem = re.sub(r"[_\d]+$", "", stem)
    parts = stem.split("_")
    name = re.sub(r"\W+", "_", author.lower()).strip("_")
    for start in range(1, len(parts)):
        tail = "_".join(parts[start:])
        if len(tail) > 2 and name.startswith(tail):
            return " ".join(parts[:start])
    return " ".join(parts)


def openclipart_drawings(cache: Path, vocabulary: set[str]) -> tuple[list[Drawing], SetReport]:
    """All usable drawings in the order of their paths, and the report so far.

    A name is taken as English when at least half of its words are in `vocabulary` and none is a
    small word of another language.
    """
    report = SetReport(LICENSE, "Open Clip Art Library contributors", "https://openclipart.org")
    chosen: dict[str, Drawing] = {}
    per_folder: Counter = Counter()
    per_stem: Counter = Counter()
    with debian_members(fetch_debian("openclipart-svg", cache)) as members:
        documents = {
            name.removeprefix(ROOT + "svg/").removesuffix(".svg"): data.decode("utf-8", "replace")
            for name, data in members
            if name.startswith(ROOT + "svg/") and name.endswith(".svg")
        }
    for path in sorted(documents):
        report.found += 1
        words = read_words(documents.pop(path))
        name = name_of(words, Path(path).name)
        if path.startswith(FLAG_FOLDERS) and "flag" not in name:
            name = f"flag of {name}"
        folder = path.split("/")[0]
        stem = (words.author, name)
        if rule := _dropped(path, words, name, vocabulary):
            report.drop(rule)
        elif per_stem[stem] >= MAX_PER_STEM:
            report.drop("series of one author")
        elif per_folder[folder] >= FOLDER_CAPS.get(folder, len(documents) + len(chosen) + 1):
            report.drop(f"over the cap of folder {folder}")
        else:
            per_folder[folder] += 1
            per_stem[stem] += 1
            chosen[path] = _drawing(path, words, name)
    drawings = {}
    with debian_members(fetch_debian("openclipart-png", cache)) as members:
        for member, data in members:
            path = member.removeprefix(ROOT + "png/").removesuffix(".png")
            if drawing := chosen.get(path):
                drawings[path] = Drawing(**{**drawing.__dict__, "png": data})
    report.drop("no PNG", len(chosen) - len(drawings))
    return [drawings[path] for path in sorted(drawings)], report


def _dropped(path: str, words: Words, name: str, vocabulary: set[str]) -> str | None:
    if not words.public_domain:
        return "not tagged public domain"
    if "gramastar" in words.title.lower() or path.startswith(DROPPED_FOLDERS):
        return "dull series or folder"
    if not is_usable(name) or len(name.split()) > 10 or SERIES.search(name):
        return "no usable name"
    parts = [part for part in name.split() if len(part) > 2 and part.isalpha()]
    # why: this author's 900 files mix Italian into half of their names
    share = 1.0 if "architetto" in words.author.lower() else 0.5
    if FOREIGN.search(name) or sum(part in vocabulary for part in parts) < share * len(parts):
        return "not English"
    return None


def _drawing(path: str, words: Words, name: str) -> Drawing:
    folders = [clean_text(part) for part in path.split("/")[:-1]]
    cleaned = [clean_text(keyword) for keyword in words.keywords]
    keywords = tuple(
        keyword
        for keyword in dict.fromkeys(cleaned)
        if is_usable(keyword) and not DULL_KEYWORDS.match(keyword) and keyword != name
    )
    category = " ".join(dict.fromkeys(folders[:2]))
    return Drawing(
        set="openclipart",
        icon=path,
        name=name,
        concept=name,
        style="clip art",
        category=category if is_usable(category) and category != "unsorted" else None,
        keywords=keywords,
        source="Debian openclipart-svg, openclipart-png",
        license=LICENSE,
        author=words.author or "unknown",
    )
