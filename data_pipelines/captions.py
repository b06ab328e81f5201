"""Words for pictures: cleaning the names that sources give, and making captions of them."""

import html
import re

SIZE_OR_NUMBER = re.compile(r"(?<=[^\W\d])[ _-]*\d+$")
NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
TONE = r"(?:light|medium[ -]light|medium|medium[ -]dark|dark)"
TONES_AT_END = re.compile(rf"((?:[ -]{TONE}[ -]skin[ -]tone)+)$")
MAX_KEYWORDS = 8


def clean_text(text: str) -> str:
    """Lower case, hyphens and other marks as single spaces, entities decoded."""
    text = html.unescape(text).replace("’", "'").lower()
    text = re.sub(r"[^\w\s'&#*+]|_", " ", text)
    return re.sub(r"\s+", " ", text).strip(" '&+")


def clean_icon_name(
    icon: str, *, suffixes: tuple[str, ...] = (), number_words: bool = False
) -> str:
    """Words of an icon name: without style suffix, trailing size or number.

    `number_words` also drops a last "-one", "-two" ..., which some sets count variants with.
    """
    name = strip_suffix(icon, suffixes)[0]
    name = clean_text(SIZE_OR_NUMBER.sub("", name))
    words = name.split()
    if number_words and len(words) > 1 and words[-1] in NUMBER_WORDS:
        words = words[:-1]
    return " ".join(words)


def strip_suffix(icon: str, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """(name without the style suffix, the suffix or "")."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if suffix and icon.endswith("-" + suffix):
            return icon[: -len(suffix) - 1], suffix
    return icon, ""


def split_tones(name: str) -> tuple[str, str | None]:
    """("waving hand", "medium") of "waving hand medium skin tone"; two tones join with "and"."""
    found = TONES_AT_END.search(name)
    if not found:
        return name, None
    tones = re.findall(rf"({TONE})[ -]skin[ -]tone", found.group(1))
    tones = list(dict.fromkeys(clean_text(tone) for tone in tones))
    return name[: found.start()], " and ".join(tones)


def with_tone(concept: str, tone: str | None) -> str:
    """The name of a toned picture: the tone is always said."""
    return f"{concept} {tone} skin tone" if tone else concept


def is_usable(name: str) -> bool:
    """Whether a cleaned name can be a caption: at least 3 letters, one of them a vowel."""
    letters = [letter for letter in name if letter.isalpha()]
    return len(letters) >= 3 and any(
        letter in "aeiouyáéíóúàèìòùâêîôûäëïöüãõåøæœ" for letter in letters
    )


def words_of_camel_case(category: str) -> str:
    """ "computer devices" of "ComputerDevices", also of "Computer Devices"."""
    return clean_text(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category))


def make_captions(
    name: str, style: str, category: str | None = None, keywords: tuple[str, ...] = ()
) -> list[str]:
    """The different things that may be said of one picture, the plainest first; at least two."""
    article = "an" if style[0] in "aeiou" else "a"
    captions = [name, f"{article} {style} of {name}"]
    if category:
        captions.append(f"{name}, {category}")
    if keywords:
        captions.append("keywords: " + ", ".join(keywords[:MAX_KEYWORDS]))
    return list(dict.fromkeys(captions))
