"""The words of the caption head: the part of a byte-level BPE that its training texts use.

A small head need not carry all 49,408 tokens of CLIP. The vocabulary keeps the tokens seen in
training and the 512 byte-level ones, into which every other token falls apart, so any text can be
encoded. It takes the tokenizer as a value (open_clip's SimpleTokenizer has the right face).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mmfm.errors import ModelError, TextError

if TYPE_CHECKING:
    from mmfm.captioner.guesses import Guesses

WORD_END = "</w>"


class Tokenizer(Protocol):
    """The face of a byte-level BPE: ids to printable symbols, each symbol standing for one byte."""

    decoder: Mapping[int, str]
    byte_decoder: Mapping[str, int]

    def encode(self, text: str) -> list[int]: ...


class Vocabulary:
    """Local ids 0 .. len-3 are BPE tokens, then come start and end; padding uses the end id."""

    def __init__(self, token_ids: Iterable[int], tokenizer: Tokenizer) -> None:
        """token_ids: the tokenizer's ids in local order; see `build` and `from_list`.

        Raises ModelError when an id is not the tokenizer's or a byte-level token is missing.
        """
        self.token_ids = [int(i) for i in token_ids]
        self.tokenizer = tokenizer
        unknown = [i for i in self.token_ids if i not in tokenizer.decoder]
        if unknown or len(set(self.token_ids)) != len(self.token_ids):
            raise ModelError(
                f"the caption vocabulary has ids that repeat or that its tokenizer does not know "
                f"({len(unknown)} unknown); use the tokenizer it was made with"
            )
        self._local = {bpe: local for local, bpe in enumerate(self.token_ids)}
        self._symbols = [tokenizer.decoder[i] for i in self.token_ids]
        self._local_of_symbol = {symbol: local for local, symbol in enumerate(self._symbols)}
        if any(symbol not in self._local_of_symbol for symbol in _base_symbols(tokenizer)):
            raise ModelError(
                "the caption vocabulary lacks some of the 512 byte-level tokens; build it again"
            )
        self.start_id = len(self.token_ids)
        self.end_id = self.start_id + 1
        self.pad_id = self.end_id
        self.guesses: Guesses | None = None  # how texts probably go on: only makes writing faster

    @classmethod
    def build(cls, texts: Iterable[str], tokenizer: Tokenizer, min_count: int = 1) -> Vocabulary:
        """The 512 byte-level tokens and every token that `texts` use at least `min_count` times."""
        counts: Counter[int] = Counter()
        for text in texts:
            counts.update(tokenizer.encode(text))
        id_of = {symbol: i for i, symbol in tokenizer.decoder.items()}
        base = [id_of[symbol] for symbol in _base_symbols(tokenizer)]
        special = set(getattr(tokenizer, "all_special_ids", ()))
        seen = {i for i, n in counts.items() if n >= min_count} - special - set(base)
        return cls(base + sorted(seen), tokenizer)

    @classmethod
    def from_list(cls, token_ids: list[int], tokenizer: Tokenizer) -> Vocabulary:
        """The inverse of `to_list`."""
        return cls(token_ids, tokenizer)

    def to_list(self) -> list[int]:
        """The tokenizer's ids in local order, for JSON."""
        return list(self.token_ids)

    def __len__(self) -> int:
        return len(self.token_ids) + 2

    def encode(self, text: str) -> list[int]:
        """Local ids of a text, without start and end. Raises TextError when it is no text."""
        if not isinstance(text, str):
            raise TextError(f"got {type(text).__name__} where a text belongs; pass a str")
        local_ids: list[int] = []
        for bpe in self.tokenizer.encode(text):
            if bpe in self._local:
                local_ids.append(self._local[bpe])
            else:
                local_ids.extend(self._fall_apart(bpe))
        return local_ids

    def _fall_apart(self, bpe: int) -> list[int]:
        symbol = self.tokenizer.decoder[bpe]
        # why: the tokenizer's own <end_of_text>, typed by a person, is a word like any other here
        special = bpe in set(getattr(self.tokenizer, "all_special_ids", ()))
        ends_word = special or symbol.endswith(WORD_END)
        letters = list(symbol.removesuffix(WORD_END))
        if ends_word:
            letters[-1] += WORD_END
        return [self._local_of_symbol[letter] for letter in letters]

    def decode(self, local_ids: Iterable[int]) -> str:
        """The text of local ids; start and end are left out, broken UTF-8 is dropped.

        The tokenizer splits at punctuation and between digits; the usual spacing is put back.
        """
        data = bytearray()
        for local in local_ids:
            if 0 <= local < len(self._symbols):
                symbol = self._symbols[local]
                data.extend(self.tokenizer.byte_decoder[c] for c in symbol.removesuffix(WORD_END))
                if symbol.endswith(WORD_END):
                    data.extend(b" ")
        text = data.decode("utf-8", errors="replace").replace("\ufffd", "")
        text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        return respace(" ".join(text.split()))


def _base_symbols(tokenizer: Tokenizer) -> list[str]:
    letters = list(tokenizer.byte_decoder)
    return letters + [letter + WORD_END for letter in letters]


def respace(text: str) -> str:
    """Take out the spaces that BPE puts around punctuation and between the digits of a number."""
    text = re.sub(r"(?<=\d) (?=\d)", "", text)
    text = re.sub(r" (?=[,.:;!?)\]}%])", "", text)
    text = re.sub(r"(?<=[(\[{#$]) ", "", text)
    text = re.sub(r"(?<=[^\W_]) (['’]) ?(?=[^\W_])", r"\1", text)
    return re.sub(r"(?<=[^\W_]) ([-/]) (?=[^\W_])", r"\1", text)


def encode_batch(
    vocabulary: Vocabulary, prompts: list[str], texts: list[str], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Training sequences: start, prompt, text, end, padded on the right to the longest.

    Returns token_ids (B, T) int64, T <= max_tokens, and target_mask (B, T) bool, True where the
    next token is one of the text or the end; a prompt is read, never predicted. A text that does
    not fit is cut, and then has no end. Raises TextError when a prompt leaves no room for a text.
    """
    rows, first_targets = [], []
    for prompt, text in zip(prompts, texts, strict=True):
        head = [vocabulary.start_id, *vocabulary.encode(prompt)]
        if len(head) >= max_tokens:
            raise TextError(
                f"the prompt {prompt!r} takes {len(head) - 1} of {max_tokens} tokens and leaves no "
                f"room for a text; shorten it"
            )
        rows.append([*head, *vocabulary.encode(text), vocabulary.end_id][:max_tokens])
        first_targets.append(len(head))
    longest = max((len(row) for row in rows), default=0)
    token_ids = torch.full((len(rows), longest), vocabulary.pad_id)
    target_mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, first) in enumerate(zip(rows, first_targets, strict=True)):
        token_ids[i, : len(row)] = torch.tensor(row)
        target_mask[i, first - 1 : len(row) - 1] = True
    return token_ids, target_mask
