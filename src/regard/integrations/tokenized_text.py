"""A text as the tokens that a model reads, with the characters that each covers and the line on which it stands."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from regard.errors import OptionError


@dataclass(frozen=True)
class TokenizedText:
    """The tokens that a model reads of a text. Special tokens, such as [CLS], cover no characters."""

    text: str
    ids: list[int]
    texts: list[str]
    """The characters that each token covers; of a special token, its name in the vocabulary."""
    spans: list[tuple[int, int]]
    """First character and the one after the last; tokens that split one character share it."""
    total: int
    """How many tokens the whole text has: more than these, if only the first were read."""

    @classmethod
    def of_encoding(
        cls, tokenizer: Any, text: str, encoding: Mapping[str, Any], total: int | None = None
    ) -> TokenizedText:
        """What a fast tokenizer of transformers returned for a text, with its ``offset_mapping``."""
        ids = list(encoding["input_ids"])
        names = tokenizer.convert_ids_to_tokens(ids)
        spans, end = list[tuple[int, int]](), 0
        for start, stop in encoding["offset_mapping"]:
            # Tokenizers say (0, 0) of special tokens: they get their position in the text.
            spans.append((int(start), int(stop)) if stop > start else (end, end))
            end = max(end, int(stop))
        texts = [text[start:stop] or str(name) for name, (start, stop) in zip(names, spans, strict=True)]
        return cls(text, ids, texts, spans, len(ids) if total is None else total)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def special(self) -> Bool[ndarray, " n"]:
        """Which tokens cover no characters."""
        return np.array([start == stop for start, stop in self.spans])

    @functools.cached_property
    def lines(self) -> Int[ndarray, " n"]:
        """The line, from 1, on which each token's first visible character stands."""
        breaks = [i for i, character in enumerate(self.text) if character == "\n"]
        lines = list[int]()
        for start, stop in self.spans:
            covered = self.text[start:stop]
            # Line breaks belong to the line that they end; a word after them to its own.
            blank = len(covered) - len(covered.lstrip()) if covered.strip() else 0
            lines.append(bisect.bisect_left(breaks, start + blank) + 1)
        return np.array(lines)


def tokenize(
    tokenizer: Any, text: str, *, special_tokens: bool = True, split_special_tokens: bool = True
) -> TokenizedText:
    """A text by a fast tokenizer of transformers.

    Args:
        special_tokens: Whether the tokenizer adds its own, such as [CLS].
        split_special_tokens: Whether a text that contains "[SEP]" means these characters, and not the token.
    """
    encoding = tokenizer(
        text,
        verbose=False,
        return_offsets_mapping=True,
        add_special_tokens=special_tokens,
        split_special_tokens=split_special_tokens,
    )
    return TokenizedText.of_encoding(tokenizer, text, encoding)


def tokenize_first(tokenizer: Any, text: str, first: int) -> TokenizedText:
    """The first tokens of a text, with the special tokens among them.

    Raises:
        OptionError: not more of them than special tokens.
    """
    whole = tokenize(tokenizer, text)
    if len(whole) <= first:
        return whole
    added = tokenizer.num_special_tokens_to_add()
    if first <= added:
        raise OptionError(
            "--first", first, f"more than the {added} tokens that the model adds", "Let it read some of the text."
        )
    encoding = tokenizer(
        text, truncation=True, max_length=first, return_offsets_mapping=True, split_special_tokens=True
    )
    return TokenizedText.of_encoding(tokenizer, text, encoding, total=len(whole))
