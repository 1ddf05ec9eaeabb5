"""A recording, reopened."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regard.errors import OptionError
from regard.recording.container import TensorFileReader, damaged
from regard.recording.head import thumbnails
from regard.recording.layer import RecordedLayer, layer_of, printable_name
from regard.recording.text import LayerRow, as_html, as_text, no_constant, rounding_in_words, shown, size_in_words
from regard.shapes import Keys, Queries, Values
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Bias
from regard.spec.masks import Mask
from regard.spec.normalizers import Normalizer
from regard.spec.scores import Score


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Which file lies at a path, and what changes when it is written into."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


class Recording:
    """One run of a model, in a file: what every attention layer read, and which weights it gave.

    Made by `regard.record`. It is read by mapping: opening costs milliseconds and no memory, at any size.

    >>> import tempfile, torch
    >>> from regard import Causal, Recording, TopK, record
    >>> from regard.nn import MultiHeadAttention, Transformer
    >>> model = Transformer(100, [MultiHeadAttention(32, 2, mask=Causal()) for _ in range(3)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/run.safetensors"
    ...     _ = record(model, torch.arange(10)[None], to=path)
    ...     run = Recording.open(path)
    ...     len(run), run.layer(2).name, run.layer(2).weights[0, 1, 9].sum().round().item()
    (3, 'blocks.2.attention', 1.0)
    """

    def __init__(self, reader: TensorFileReader) -> None:
        self.path = reader.path
        self.size = reader.size
        """Bytes of the file."""
        self._reader, self._stamp = reader, _stamp(reader.path)
        try:
            about = json.loads(reader.metadata["about"], parse_constant=no_constant)
            self.model = printable_name(about["model"])
            """The name of the model."""
            self.versions = {printable_name(name): printable_name(of) for name, of in about["versions"].items()}
            """Of Python and of the libraries that ran."""
            self.key = printable_name(reader.metadata["digest"])
            """Another for every content: what is computed from a recording can be kept under it."""
            self.has_text = bool(about["text"])
            self._layers = [layer_of(reader, i, layer) for i, layer in enumerate(about["layers"])]
            for layer in self._layers:
                layer.run = self
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise damaged(self.path, f"what it says of itself: {type(error).__name__}: {error}") from None
        if not self._layers:
            raise damaged(self.path, "it has no layers")

    @classmethod
    def open(cls, path: str | Path) -> Recording:
        """A file that `regard.record` wrote.

        Raises:
            OptionError: the file is not there, is no recording, is of a newer format, or is damaged.
        """
        return cls(TensorFileReader(Path(path)))

    @classmethod
    def of(
        cls,
        q: Queries | Sequence[Queries],
        k: Keys | Sequence[Keys],
        v: Values | Sequence[Values] | None = None,
        *,
        to: str | Path,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
        score: Score | None = None,
        normalizer: Normalizer | None = None,
        dtype: torch.dtype | None = None,
        name: str = "arrays",
        text: str | None = None,
        tokens: Sequence[str] | None = None,
        spans: Sequence[tuple[int, int]] | None = None,
    ) -> Recording:
        """A recording of queries and keys from elsewhere: the file that `regard.record` would have written.

        Args:
            q, k, v: Of one layer, (b, h, q, d), (b, g, k, d) and (b, g, k, dv); or lists, one for each layer.
                Values are kept where they are given.
            to: Where the file will be; a file that is there is replaced.
            mask, bias, score, normalizer: Of every layer, as `regard.attention` takes them.
            dtype: In which they are kept; None is their own, or float32.
            name: What is said in place of a model's name.
            text, tokens, spans: As in `record`; a token for each key.

        Raises:
            RegardError: what `attention` would refuse; a score that is a function; the disk has no room.

        >>> import tempfile, torch
        >>> from regard import Causal, Recording
        >>> q, k = torch.randn(2, 1, 4, 100, 16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Recording.of(q, k, mask=Causal(), to=f"{folder}/run.safetensors")
        ...     run.layer(0).weights[0, 3, 99].sum().round().item()
        1.0
        """
        from regard.recording.recorder import record_tensors
        from regard.recording.writer import RecordedText

        spec = AttentionSpec.of(mask, bias, score, normalizer)
        return record_tensors(q, k, v, spec, to, name, RecordedText(text, tokens, spans), dtype)

    def layer(self, which: int | str) -> RecordedLayer:
        """A layer by its number, in the order of the calls, or by its module's name."""
        names = self.names
        if isinstance(which, str) and which in names:
            return self._layers[names.index(which)]
        if isinstance(which, int) and -len(names) <= which < len(names):
            return self._layers[which]
        allowed = f"0 to {len(names) - 1}, or one of {', '.join(names)}"
        raise OptionError("recording.layer", repr(which), allowed, "recording.names lists them.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers' modules, in the order of the calls."""
        return tuple(layer.name for layer in self._layers)

    @functools.cached_property
    def text(self) -> str | None:
        """The whole text, where it was given."""
        return self._words("tokens/text").decode("utf-8", "replace") if self.has_text else None

    @functools.cached_property
    def tokens(self) -> tuple[str, ...] | None:
        """What each token of the text looks like, where that was given."""
        if "tokens/ends" not in self._reader.entries:
            return None
        whole, ends = self._words("tokens/texts"), self._numbers("tokens/ends", 1)
        starts = [0, *ends[:-1]]
        if ends and (ends != sorted(ends) or ends[0] < 0 or ends[-1] != len(whole)):
            raise damaged(self.path, "where tokens end")
        return tuple(whole[a:b].decode("utf-8", "replace") for a, b in zip(starts, ends, strict=True))

    @functools.cached_property
    def spans(self) -> tuple[tuple[int, int], ...] | None:
        """Of each token its first character in the text, and the one behind its last."""
        if "tokens/spans" not in self._reader.entries:
            return None
        spans, most = self._numbers("tokens/spans", 2), len(self.text or "")
        if not all(len(span) == 2 and 0 <= span[0] <= span[1] <= most for span in spans):
            raise damaged(self.path, "where tokens stand in the text")
        return tuple((start, stop) for start, stop in spans)

    @property
    def exact(self) -> bool:
        """Whether all numbers are those of the run, not rounded."""
        return all(layer.rounding is None for layer in self._layers)

    @property
    def overwritten(self) -> bool:
        """Whether its file was written into since it was opened: what is mapped is no recording then.

        A file that was removed, or that another took the place of, stays as it was for who has it open.
        """
        now = _stamp(self.path)
        return now is not None and now[:2] == (self._stamp or ())[:2] and now != self._stamp

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[RecordedLayer]:
        return iter(self._layers)

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, {self.model!r}, {len(self)} layers)"

    def __str__(self) -> str:
        return as_text(self._summary, self._rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: its layers, and a map of every head where that is quick."""
        return as_html(self._summary, self._rows, thumbnails(self._layers))

    @property
    def _summary(self) -> str:
        tokens = "" if self.tokens is None else f", {len(self.tokens):,} tokens"
        of = f"{self.model}, {len(self)} layers{tokens}, {size_in_words(self.size)}"
        return f"{shown(self.path.name)}: {of}"

    @property
    def _rows(self) -> list[LayerRow]:
        return [
            LayerRow(
                str(layer.number),
                layer.name,
                f"{layer.heads} heads",
                f"{layer.queries:,} × {layer.keys:,}",
                layer.dtype,
                rounding_in_words(layer.rounding),
            )
            for layer in self
        ]

    def _words(self, name: str) -> bytes:
        tensor = self._reader.tensor(name)
        if tensor.dtype != torch.uint8 or tensor.ndim != 1:
            raise damaged(self.path, name)
        return tensor.numpy().tobytes()

    def _numbers(self, name: str, dims: int) -> list[Any]:
        tensor = self._reader.tensor(name)
        if tensor.dtype != torch.int64 or tensor.ndim != dims:
            raise damaged(self.path, name)
        return tensor.tolist()
