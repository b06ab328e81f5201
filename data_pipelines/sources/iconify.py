"""Drawings of the multicolour icon sets in npm `@iconify/json`.

Only the sets named here, and only when their own `info.license.spdx` is allowed at build time.
"""

import json
import re
from pathlib import Path

from data_pipelines.captions import (
    clean_icon_name,
    is_usable,
    split_tones,
    strip_suffix,
    with_tone,
    words_of_camel_case,
)
from data_pipelines.drawing import Drawing, SetReport
from data_pipelines.sources.emojibase import EmojiText, EmojiTexts
from data_pipelines.sources.packages import fetch_npm, read_npm
from mmfm.errors import DataError

ALLOWED_LICENSES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0")

# Prefix -> what a person would call its look; by style suffix where the set has several looks.
EMOJI_STYLES: dict[str, str | dict[str, str]] = {
    "noto": "noto emoji",
    "twemoji": "twemoji emoji",
    "fluent-emoji": "glossy fluent emoji",
    "fluent-emoji-flat": "flat fluent emoji",
    "noto-v1": "old noto emoji",
    "emojione": "emojione emoji",
    "fxemoji": "firefox emoji",
    "streamline-emojis": "outlined emoji",
}
ICON_STYLES: dict[str, str | dict[str, str]] = {
    "streamline-ultimate-color": "colored outline icon",
    "icon-park": "bold outline icon",
    "streamline-color": {"": "blue outline icon", "flat": "flat blue icon"},
    "streamline-flex-color": {"": "curvy blue outline icon", "flat": "curvy flat blue icon"},
    "streamline-plump-color": {"": "plump blue outline icon", "flat": "plump flat blue icon"},
    "streamline-sharp-color": {"": "sharp blue outline icon", "flat": "sharp flat blue icon"},
    "streamline-freehand-color": "hand drawn icon",
    "fluent-color": "colorful gradient icon",
    "glyphs-poly": "colored line icon",
    "marketeq": "thin blue line icon",
    "streamline-cyber-color": "angular line icon",
    "meteocons": {"": "weather line icon", "fill": "filled weather icon"},
    "streamline-kameleon-color": {"": "round flat icon", "duo": "round blue icon"},
    "flat-color-icons": "flat color icon",
    "streamline-stickies-color": {"": "sticker icon", "duo": "green sticker icon"},
    "flat-ui": "flat design icon",
}
FLAG_STYLES: dict[str, str | dict[str, str]] = {
    "flag": {"": "flag picture", "1x1": "square flag picture", "4x3": "flag picture"},
    "circle-flags": "round flag picture",
    "flagpack": "small flag picture",
    "cif": "flag icon",
}
STYLES = {**EMOJI_STYLES, **ICON_STYLES, **FLAG_STYLES}
NUMBER_WORD_SETS = ("icon-park",)
BORROWED_CODES = {"fluent-emoji": "fluent-emoji-flat"}  # the same names, without `chars`
CODE_SETS = ("noto", "twemoji", "fluent-emoji-flat")

NAMED_COLOR = re.compile(
    r"""(?:fill|stroke|stop-color|color)\s*[=:]\s*["']?\s*(#|rgb|url\(|[a-z]+)"""
)
LOGO_NAME = re.compile(r"(^|-)(logo|logos|brand)(-|$)")
LOGO_CATEGORIES = ("brand", "logos", "company brands")
SIZED_NAME = re.compile(r"-(\d+)$")


def read_sets(prefixes: list[str], cache: Path) -> dict[str, dict]:
    """The set files of `prefixes` and of the sets whose names help to read them."""
    wanted = {f"json/{prefix}.json": prefix for prefix in dict.fromkeys([*prefixes, *CODE_SETS])}
    archive = fetch_npm("@iconify/json", cache)
    sets = {wanted[name]: json.loads(data) for name, data in read_npm(archive, wanted.__contains__)}
    if missing := sorted(set(prefixes) - set(sets)):
        raise DataError(f"{archive.name} has no set {', '.join(missing)}; choose other --sets")
    return sets


def iconify_drawings(
    prefix: str, sets: dict[str, dict], texts: EmojiTexts
) -> tuple[list[Drawing], SetReport]:
    """All usable drawings of one set, in the order of its names, and the report so far.

    Raises DataError when the licence of the set is not an allowed one.
    """
    data = sets[prefix]
    info = data["info"]
    spdx = info["license"].get("spdx")
    if spdx not in ALLOWED_LICENSES:
        allowed = ", ".join(ALLOWED_LICENSES)
        raise DataError(f"icon set {prefix} is under {spdx}, not one of {allowed}; leave it out")
    report = SetReport(spdx, info["author"]["name"], info["author"].get("url", ""))
    categories: dict[str, str] = {}
    for category, icons in (data.get("categories") or {}).items():
        for icon in icons:
            categories.setdefault(icon, words_of_camel_case(category))
    codes = sets.get(BORROWED_CODES.get(prefix, prefix), data).get("chars") or {}
    code_of = {icon: code for code, icon in codes.items()}
    largest = _largest_sizes(data) if prefix == "fluent-color" else None
    drawings = []
    for icon in sorted(data["icons"]):
        entry = data["icons"][icon]
        if entry.get("hidden"):
            continue
        report.found += 1
        if rule := _unusable(entry["body"]):
            report.drop(rule)
        elif largest is not None and icon not in largest:
            report.drop("smaller size of the same icon")
        elif categories.get(icon) in LOGO_CATEGORIES or LOGO_NAME.search(icon):
            report.drop("logo or brand")
        elif (text := _text(prefix, icon, data, code_of, texts, categories.get(icon))) is None:
            report.drop("no usable name")
        else:
            drawings.append(
                Drawing(
                    set=prefix,
                    icon=icon,
                    name=text.name,
                    concept=text.concept,
                    style=_style(prefix, icon),
                    category=text.category,
                    keywords=text.keywords,
                    source="npm @iconify/json",
                    license=spdx,
                    author=report.author,
                    skin_tone=text.skin_tone,
                    svg=to_svg(entry, data),
                )
            )
    return drawings, report


def icon_words(sets: dict[str, dict], prefixes: tuple[str, ...]) -> set[str]:
    """Every word in the icon names of these sets."""
    return {
        word for prefix in prefixes for icon in sets[prefix]["icons"] for word in icon.split("-")
    }


def to_svg(entry: dict, data: dict) -> str:
    """One icon as a document of its own (gradient ids repeat between the icons of a set)."""
    left, top = entry.get("left", 0), entry.get("top", 0)
    width = entry.get("width", data.get("width", 16))
    height = entry.get("height", data.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{entry['body']}</svg>"
    )


def _unusable(body: str) -> str | None:
    """The rule that an SVG body breaks, if any."""
    if "currentColor" in body:
        return "takes its colour from the page"
    colors = {color for color in NAMED_COLOR.findall(body) if color not in ("none", "inherit")}
    if not colors:
        return "names no colour"
    if "<text" in body:
        return "needs a font"
    if "<image" in body:
        return "embeds a bitmap"
    return None


def _largest_sizes(data: dict) -> set[str]:
    best: dict[str, tuple[int, str]] = {}
    for icon in data["icons"]:
        found = SIZED_NAME.search(icon)
        size, base = (int(found.group(1)), icon[: found.start()]) if found else (0, icon)
        best[base] = max(best.get(base, (-1, "")), (size, icon))
    return {icon for _, icon in best.values()}


def _style(prefix: str, icon: str) -> str:
    style = STYLES[prefix]
    if isinstance(style, str):
        return style
    return style[strip_suffix(icon, tuple(style))[1]]


def _text(
    prefix: str,
    icon: str,
    data: dict,
    code_of: dict[str, str],
    texts: EmojiTexts,
    category: str | None,
) -> EmojiText | None:
    if prefix in EMOJI_STYLES:
        if icon in code_of and (found := texts.by_code(code_of[icon])):
            return found
        if prefix == "fxemoji":
            return texts.by_glued(icon)
        name = re.sub(r"-(light|medium-light|medium|medium-dark|dark)$", r"-\1-skin-tone", icon)
        if found := texts.by_slug(name if prefix.startswith("fluent") else icon):
            return found
        plain, tone = split_tones(name if prefix.startswith("fluent") else icon)
        concept = clean_icon_name(plain)
    elif prefix in FLAG_STYLES:
        country = re.sub(r"-(1x1|4x3)$", "", icon)
        found = texts.by_code("-".join(f"{0x1F1E6 + ord(c) - 97:x}" for c in country))
        return found if re.fullmatch(r"[a-z]{2}", country) else None
    else:
        suffixes = tuple(style) if isinstance(style := STYLES[prefix], dict) else ()
        concept = clean_icon_name(icon, suffixes=suffixes, number_words=prefix in NUMBER_WORD_SETS)
        tone = None
    if not is_usable(concept):
        return None
    if category and not is_usable(category):
        category = None
    return EmojiText(with_tone(concept, tone), concept, tone, (), category)
