"""CLIP's byte-pair tokenizer without torch: the ids of open_clip's, by open_clip's own table.

open_clip's cannot be imported without importing torch, which takes seconds; this one takes
milliseconds. BPE: 1508.07909; over bytes, lower case, as in CLIP (2103.00020).
"""

from __future__ import annotations

import gzip
import importlib.util
import re
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from mmfm.errors import ModelError

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_152 - 256 - 2  # lines of the file that count
_READ = 1 << 20  # bytes of it, unpacked, that hold those lines twice over
_MARKS = ("<start_of_text>", "<end_of_text>")
_PARTS = "|".join(_MARKS) + r"|'s|'t|'re|'ve|'m|'ll|'d|[{L}]+|[{N}]|[^\s{L}{N}]+"
# why: such texts are what ftfy and html leave as they are, and what re splits as regex does, so
# that neither of those two is imported; a test compares both ways
_PLAIN = re.compile(r"[ -%'-~]*")
_SPLIT_PLAIN = re.compile(_PARTS.format(L="a-z", N="0-9"))


class ClipTokenizer:
    """Texts to ids and back, as open_clip's `SimpleTokenizer` with its default settings.

    An id is a place in CLIP's table: 256 letters (one a byte), the same ending a word, one for
    each merge, in the order of their use, and two marks.
    Raises ModelError when open_clip, which carries the merges, is not installed.
    """

    start = 2 * 256 + _MERGES
    end = start + 1

    def __init__(self) -> None:
        self._ranks = {merge: rank for rank, merge in enumerate(_merges())}
        self._letters = _letters()
        self._ids = {letter: number for number, letter in enumerate(self._letters.values())}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without the marks of its start and end."""
        ids = []
        for part in _parts(text):
            ids += [self.start + _MARKS.index(part)] if part in _MARKS else self._word(part)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text that such ids stand for, in lower case; broken UTF-8 becomes U+FFFD."""
        text = "".join(self._symbols[one] for one in ids)
        data = bytes(self._bytes[letter] for letter in text)
        return data.decode("utf-8", errors="replace").replace("</w>", " ")

    def _word(self, part: str) -> list[int]:
        """The ids of one word: its bytes, neighbours joined, the earliest merge first."""
        word = [self._letters[byte] for byte in part.encode("utf-8")]
        ids = [self._ids[letter] for letter in word]
        word[-1] += "</w>"
        ids[-1] += 256
        while len(word) > 1:
            pairs = [f"{a} {b}" for a, b in pairwise(word)]
            rank = min(self._ranks.get(pair, _MERGES) for pair in pairs)
            if rank == _MERGES:
                break
            place = 0
            while place < len(word) - 1:
                if self._ranks.get(f"{word[place]} {word[place + 1]}") == rank:
                    word[place : place + 2] = [word[place] + word[place + 1]]
                    ids[place : place + 2] = [2 * 256 + rank]
                place += 1
        return ids

    @cached_property
    def _bytes(self) -> dict[str, int]:
        return {letter: byte for byte, letter in self._letters.items()}

    @cached_property
    def _symbols(self) -> list[str]:
        letters = list(self._letters.values())
        merged = (merge.replace(" ", "") for merge in self._ranks)
        return [*letters, *(f"{letter}</w>" for letter in letters), *merged, *_MARKS]


def _merges() -> list[str]:
    """CLIP's merges from open_clip's folder, which is found without importing open_clip."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise ModelError("open_clip is not installed; pip install open_clip_torch")
    path = Path(found.submodule_search_locations[0]) / _FILE
    try:
        with gzip.open(path) as file:
            text = file.read(_READ).decode("utf-8", errors="ignore")
    except (OSError, EOFError) as error:
        raise ModelError(f"{path} cannot be read ({error}); install open_clip again") from error
    merges = text.split("\n", _MERGES + 1)[1:-1]  # without the title
    if len(merges) != _MERGES:
        raise ModelError(f"{path} has {len(merges)} merges, not {_MERGES}; install open_clip again")
    return merges


def _parts(text: str) -> list[str]:
    """A text cleaned as open_clip cleans it, then split into words, digits and signs."""
    if _PLAIN.fullmatch(text):
        return _SPLIT_PLAIN.findall(" ".join(text.split()).lower())
    import html

    import ftfy
    import regex

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = " ".join(text.split()).lower()
    return regex.findall(_PARTS.format(L=r"\p{L}", N=r"\p{N}"), text, regex.IGNORECASE)


def _letters() -> dict[int, str]:
    """A visible letter for every byte, so that no symbol holds a blank, in the table's order.

    The printable ones of Latin-1 stand for themselves and come first.
    """
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}
