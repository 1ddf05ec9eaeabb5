"""The tokenizer of the embedded model: a small byte-pair encoding that a person can read.

A line break and the indentation after it are one token, words keep the space before them, and bytes
without a token of their own are encoded one by one, so that no text is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import OptionError
from regard.integrations.tokenized_text import TokenizedText

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SIZE = 4096
START = "<|file|>"
"""The special token that begins a file, as the vocabulary and every display name it."""
# In this order: line breaks with the indentation that follows, words, numbers, signs, spaces.
_SPLIT = r"(?:\r?\n)+ *| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


@dataclass(frozen=True)
class BytePairTokenizer:
    """A byte-pair encoding, from a file of the `tokenizers` library."""

    backend_tokenizer: Tokenizer

    @classmethod
    def open(cls, path: Path) -> BytePairTokenizer:
        """The encoding in a tokenizer.json."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        # A text that contains "<|file|>" means these characters, not the token.
        tokenizer.encode_special_tokens = True
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """How many tokens the vocabulary has."""
        return self.backend_tokenizer.get_vocab_size()

    @property
    def start(self) -> int:
        """The id of `START`."""
        start: Any = self.backend_tokenizer.token_to_id(START)
        return int(start)

    @property
    def byte_lengths(self) -> list[int]:
        """How many bytes of text each token of the vocabulary stands for; 0 for `START`."""
        # In the file every byte is written as one printable character.
        names = [str(self.backend_tokenizer.id_to_token(token)) for token in range(self.size)]
        return [0 if name == START else len(name) for name in names]

    def encode(self, text: str) -> TokenizedText:
        """A text as tokens, without `START`."""
        encoding = self._encoding(text)
        spans = [(int(start), int(stop)) for start, stop in encoding.offsets]
        texts = [text[start:stop] for start, stop in spans]
        return TokenizedText(text, list(encoding.ids), texts, spans, len(spans))

    def encode_file(self, text: str, first: int | None = None) -> TokenizedText:
        """`START` and the text of a file, or the first of these tokens."""
        encoded = self.encode(text)
        return TokenizedText(
            text,
            [self.start, *encoded.ids][:first],
            [START, *encoded.texts][:first],
            [(0, 0), *encoded.spans][:first],
            encoded.total + 1,
        )

    def file_ids(self, text: str) -> list[int]:
        """The ids of `START` and the text of a file, without where each token stands."""
        return [self.start, *self._encoding(text).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens."""
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=False)

    def _encoding(self, text: str) -> Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            given = repr(text[error.start : error.end])
            raise OptionError(
                "text", given, "Unicode text without lone surrogates", "Read the file with errors='replace'."
            ) from error
        return self.backend_tokenizer.encode(text)


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
