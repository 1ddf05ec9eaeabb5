"""The tokens of the embedded model: a small byte-pair encoding that a person can read.

A line break and the indentation after it are one token, words keep the space before them, and bytes
without a token of their own are spelled byte by byte, so that no text is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import OptionError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SIZE = 4096
START = "<|file|>"
# In this order: line breaks with the indentation that follows, words, numbers, signs, spaces.
_SPLIT = r"(?:\r?\n)+ *| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


@dataclass(frozen=True)
class Encoded:
    """A text as tokens: their ids, what each looks like, and the characters that each covers."""

    ids: list[int]
    texts: list[str]
    spans: list[tuple[int, int]]
    """First character and the one after the last; tokens that split one character share it."""


@dataclass(frozen=True)
class Tokens:
    """A byte-pair encoding, read from a file of the `tokenizers` library."""

    tokenizer: Tokenizer

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """The encoding in a tokenizer.json."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        # A text that holds "<|file|>" means these characters, not the token.
        tokenizer.encode_special_tokens = True
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.tokenizer.get_vocab_size()

    @property
    def start(self) -> int:
        """The token that begins a file."""
        start: Any = self.tokenizer.token_to_id(START)
        return int(start)

    @property
    def byte_lengths(self) -> list[int]:
        """How many bytes of text each token stands for; none for the token that begins a file."""
        # In the file every byte is written as one printable character.
        names = [str(self.tokenizer.id_to_token(token)) for token in range(self.size)]
        return [0 if name == START else len(name) for name in names]

    def encode(self, text: str) -> Encoded:
        """A text as tokens."""
        found = self._encoded(text)
        spans = [(int(start), int(stop)) for start, stop in found.offsets]
        return Encoded(list(found.ids), [text[start:stop] for start, stop in spans], spans)

    def with_start(self, text: str) -> list[int]:
        """The ids of a file: the start token and its text."""
        return [self.start, *self._encoded(text).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _encoded(self, text: str) -> Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            given = repr(text[error.start : error.end])
            raise OptionError(
                "text", given, "Unicode text without lone surrogates", "Read the file with errors='replace'."
            ) from error
        return self.tokenizer.encode(text)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Learn the encoding from texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[START],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
