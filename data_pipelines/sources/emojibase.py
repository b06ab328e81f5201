"""Names, keywords and groups of every emoji, from npm `emojibase-data` (MIT, Miles Johnson)."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.captions import clean_text, is_usable, split_tones, with_tone
from data_pipelines.sources.packages import fetch_npm, read_npm

HAIR = ("blond hair", "red hair", "curly hair", "white hair", "beard")


@dataclass(frozen=True)
class EmojiText:
    """What is said of one emoji; `concept` is the name without the skin tone."""

    name: str
    concept: str
    skin_tone: str | None
    keywords: tuple[str, ...]
    category: str | None


def normal_code(hexcode: str) -> str:
    """Code points in lower-case hex joined by "-", without the variation selector."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def clean_label(label: str) -> str:
    """A label as one phrase: "flag of france" of "flag: France"."""
    head, _, tail = label.partition(": ")
    if head == "flag":
        return "flag of " + clean_text(tail)
    if tail in HAIR:
        return clean_text(f"{head} with {tail}")
    if tail == "bald":
        return clean_text(f"bald {head}")
    return clean_text(label)


def slug(label: str) -> str:
    """The icon name that Iconify would give to a label: letters and digits joined by "-"."""
    return re.sub(r"[^\w]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


class EmojiTexts:
    """Emoji texts, found by code point or by the name an icon set gives to the emoji."""

    def __init__(self, data: list[dict], groups: dict[str, str]):
        self._by_code: dict[str, EmojiText] = {}
        self._by_slug: dict[str, EmojiText] = {}
        self._glued: dict[str, EmojiText] = {}
        for emoji in data:
            self._add(emoji, groups)

    def _add(self, emoji: dict, groups: dict[str, str]) -> None:
        concept = clean_label(emoji["label"])
        group = groups.get(str(emoji.get("group")))
        category = group.replace("-", " and ") if group else None
        tags = (clean_text(tag) for tag in emoji.get("tags", []))
        keywords = tuple(tag for tag in dict.fromkeys(tags) if is_usable(tag) and tag != concept)
        for shown in [emoji, *emoji.get("skins", [])]:
            tones = re.findall(r"([a-z-]+) skin tone(?=,|$)", shown["label"])
            tone = " and ".join(dict.fromkeys(clean_text(tone) for tone in tones)) or None
            if shown is emoji:
                tone = None  # the plain emoji, or the picture of a tone itself
            text = EmojiText(with_tone(concept, tone), concept, tone, keywords, category)
            self._by_code[normal_code(shown["hexcode"])] = text
            self._by_slug.setdefault(slug(shown["label"]), text)

    def by_code(self, hexcode: str) -> EmojiText | None:
        return self._by_code.get(normal_code(hexcode))

    def by_slug(self, icon: str) -> EmojiText | None:
        """Text of an icon name, also of the older names that sets still use."""
        for name in (icon, re.sub(r"-\d+$", "", icon)):
            for candidate in (name, name.replace("flag-for-", "flag-"), f"flag-{name}"):
                if found := self._by_slug.get(candidate.replace("flag-flag-", "flag-")):
                    return found
            plain, tone = split_tones(name)
            if tone and (found := self._by_slug.get(plain)):
                named = with_tone(found.concept, tone)
                return EmojiText(named, found.concept, tone, found.keywords, found.category)
        return None

    def by_glued(self, icon: str) -> EmojiText | None:
        """Text of a name written without hyphens (`raisedhand`, `u1F34E-redapple`)."""
        if not self._glued:
            self._glued = {name.replace("-", ""): text for name, text in self._by_slug.items()}
        name = icon.lower()
        stripped = re.sub(r"^u[0-9a-f]{4,5}-?", "", name).replace("-", "")
        return self._glued.get(name.replace("-", "")) or self._glued.get(stripped)

    def vocabulary(self) -> set[str]:
        """Every word that a name or keyword holds."""
        texts = self._by_code.values()
        return {
            word for text in texts for line in (text.name, *text.keywords) for word in line.split()
        }

    def learn(self, chars: dict[str, str], aliases: dict[str, str]) -> None:
        """Take over the names a set gives to code points (Iconify `chars`) and its aliases."""
        self._glued = {}  # made again when asked for
        for hexcode, icon in chars.items():
            if text := self.by_code(hexcode):
                self._by_slug.setdefault(icon, text)
        for alias, icon in aliases.items():
            if text := self._by_slug.get(icon):
                self._by_slug.setdefault(alias, text)


def read_emoji_texts(cache: Path) -> EmojiTexts:
    """The English texts of npm `emojibase-data`, fetched into `cache` when missing."""
    wanted = ("en/data.json", "meta/groups.json")
    files = dict(read_npm(fetch_npm("emojibase-data", cache), wanted.__contains__))
    groups = json.loads(files["meta/groups.json"])["groups"]
    return EmojiTexts(json.loads(files["en/data.json"]), groups)
