"""A recording, reopened: any observer can be asked of any layer, as if the run were now."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from regard.attend import attention, observe
from regard.biases import Bias
from regard.errors import OptionError, RegardError
from regard.masks import Given, Mask
from regard.normalizers import Normalizer, Softmax
from regard.observers import Observer, Pooled, Rows
from regard.recording.container import Entry, Reader, damaged
from regard.recording.forms import AnyValue, value_of
from regard.recording.words import (
    Rounding,
    Row,
    as_html,
    as_text,
    no_constant,
    rounding_in_words,
    shown,
    size_in_words,
)
from regard.scores import Score
from regard.shapes import Keys, Output, Queries, Values
from regard.watching import Pass, Place, observed
from regard.weights import Weights

Result = TypeVar("Result")


class RecordedLayer:
    """The attention of one layer in a recorded run, read from the file where it is asked for."""

    def __init__(
        self, reader: Reader, number: int, name: str, place: Place, rounding: Rounding | None, about: Any
    ) -> None:  # fmt: skip
        self.number, self.name, self.place = number, name, place
        self.rounding = rounding
        """How far its weights are from the run's; None: they are the same."""
        self._reader, self._about = reader, about

    @property
    def q(self) -> Queries:
        """Queries, (b, h, q, d), mapped from the file."""
        return self._tensor("q")

    @property
    def k(self) -> Keys:
        """Keys, (b, g, k, d)."""
        return self._tensor("k")

    @property
    def v(self) -> Values | None:
        """Values, (b, g, k, dv), where they were recorded."""
        return self._tensor("v") if f"layers/{self.number}/v" in self._reader.entries else None

    @property
    def lse(self) -> Tensor:
        """The log-sum-exp of each row of scores, (b, h, q), float32."""
        return self._tensor("lse")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self._entry("q").shape[1]

    @property
    def dtype(self) -> str:
        """In which queries and keys are kept: "float32", "bfloat16" or "float16"."""
        return str(self._entry("q").dtype).removeprefix("torch.")

    @property
    def queries(self) -> int:
        """How many there are."""
        return self._entry("q").shape[2]

    @property
    def keys(self) -> int:
        """How many there are."""
        return self._entry("k").shape[2]

    @functools.cached_property
    def mask(self) -> Mask:
        """Which keys a query may see."""
        return self._value("mask", Mask)

    @functools.cached_property
    def bias(self) -> Bias:
        """What was added to scores."""
        return self._value("bias", Bias)

    @functools.cached_property
    def score(self) -> Score:
        """How queries and keys were compared."""
        return self._value("score", Score)

    @functools.cached_property
    def normalizer(self) -> Normalizer:
        """How scores became weights."""
        return self._value("normalizer", Normalizer)

    @functools.cached_property
    def weights(self) -> Weights:
        """All weights as a value: single ones, rows and rectangles cost what they hold.

        Raises:
            OptionError: another normalizer than `Softmax`, of which lse does not tell: `see` has its rows.
        """
        return self._guarded(lambda: self._weights(self.mask))

    def see(self, *observers: Observer[Any]) -> Pass:
        """Statistics of the weights, as `watch` would have seen them in the run.

        `Pooled` with a rectangle and `Rows` cost what they ask for; all others share one pass over the keys.

        >>> import tempfile, torch
        >>> from regard import Causal, Entropy, record
        >>> from regard.nn import MultiHeadAttention, Transformer
        >>> model = Transformer(100, [MultiHeadAttention(32, 2, mask=Causal())])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = record(model, torch.zeros(1, 10, dtype=torch.long), to=f"{folder}/run.safetensors")
        ...     run.layer(0).see(Entropy())[Entropy()].shape
        torch.Size([1, 2, 10])
        """
        if not observers:
            raise OptionError("see(…)", "no observers", "observers: Entropy(), TopK(8), Received() …",
                              "Say what to see.")  # fmt: skip
        results = self._guarded(
            lambda: observed(self._look, observers, self.place, self.mask, self.queries, self.keys)
        )
        return Pass(self.place, self.queries, self.keys, results)

    def out(self) -> Output:
        """The output of the layer's heads, before its projection: (b, h, q, dv).

        Raises:
            OptionError: values were not recorded.
        """
        v = self.v
        if v is None:
            raise OptionError("out()", "a recording without values", "one made with values=True",
                              "Record again: regard record --values, or record(…, values=True).")  # fmt: skip
        return self._guarded(
            lambda: attention(self.q, self.k, v, mask=self.mask, **self._scoring)
        )  # fmt: skip

    def __repr__(self) -> str:
        b, h, q, d = self._entry("q").shape
        return f"RecordedLayer({self.number}, {self.name!r}, {b} × {h} heads of {d}, {q} × {self.keys})"

    @property
    def _scoring(self) -> dict[str, Any]:
        return {"bias": self.bias, "score": self.score, "normalizer": self.normalizer}

    def _look(
        self, observers: Sequence[Observer[Any]], real: Given | None
    ) -> dict[Observer[Any], Any]:
        mask = self.mask if real is None else self.mask & real
        apart = [one for one in observers if isinstance(one, Pooled | Rows)]
        if not isinstance(self.normalizer, Softmax) or len(apart) < len(observers):
            # What needs a pass over all keys has it; whole maps come along for less than apart from it.
            apart = [one for one in apart if isinstance(one, Pooled) and (one.queries or one.keys)]
        if not isinstance(self.normalizer, Softmax):
            apart = []
        found: dict[Observer[Any], Any] = {}
        if apart:
            weights = self.weights if real is None else self._weights(mask)
            found = {one: weights.see(one) for one in apart}
        rest = [one for one in observers if one not in found]
        if rest:
            seen = observe(self.q, self.k, self.k[..., :1], *rest, mask=mask, **self._scoring)
            found |= {one: seen[one] for one in rest}
        return found

    def _weights(self, mask: Mask) -> Weights:
        return Weights.of(self.q, self.k, self.lse, mask=mask, **self._scoring)

    def _value(self, part: str, kind: type[AnyValue]) -> AnyValue:
        def made() -> AnyValue:
            return value_of(self._about.get(part), kind, self._held)

        return self._guarded(made)

    def _held(self, name: str) -> Tensor:
        if not name.startswith("held/"):
            raise ValueError(f"a value that holds {name[:40]!r}")
        return self._reader.tensor(name)

    def _tensor(self, part: str) -> Tensor:
        return self._reader.tensor(f"layers/{self.number}/{part}")

    def _entry(self, part: str) -> Entry:
        return self._reader.entries[f"layers/{self.number}/{part}"]

    def _guarded(self, ask: Callable[[], Result]) -> Result:
        """What is asked, or that the file is damaged: not all of its numbers were held against each other."""
        try:
            return ask()
        except RegardError:
            raise
        except Exception as error:
            raise damaged(self._reader.path, f"layer {self.number}: {error}") from error


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

    def __init__(self, reader: Reader) -> None:
        self.path = reader.path
        self.size = reader.size
        """Bytes of the file."""
        self._reader = reader
        try:
            about = json.loads(reader.metadata["about"], parse_constant=no_constant)
            self.model = _word(about["model"])
            """The name of the model."""
            self.versions = {_word(name): _word(of) for name, of in about["versions"].items()}
            """Of Python and of the libraries that ran."""
            self.key = _word(reader.metadata["digest"])
            """Another for every content: what is computed from a recording can be kept under it."""
            self.has_text = bool(about["text"])
            self._layers = [_layer(reader, i, one) for i, one in enumerate(about["layers"])]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise damaged(
                self.path, f"what it says of itself: {type(error).__name__}: {error}"
            ) from None
        if not self._layers:
            raise damaged(self.path, "it has no layers")

    @classmethod
    def open(cls, path: str | Path) -> Recording:
        """A file that `regard.record` wrote.

        Raises:
            OptionError: the file is not there, is no recording, is of a newer format, or is damaged.
        """
        return cls(Reader(Path(path)))

    def layer(self, which: int | str) -> RecordedLayer:
        """A layer by its number, in the order of the calls, or by its module's name."""
        names = self.names
        if isinstance(which, str) and which in names:
            return self._layers[names.index(which)]
        if isinstance(which, int) and -len(names) <= which < len(names):
            return self._layers[which]
        allowed = f"0 to {len(names) - 1}, or one of {', '.join(names)}"
        raise OptionError("recording.layer", repr(which), allowed, "recording.names lists them.")  # fmt: skip

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
        return tuple(
            whole[a:b].decode("utf-8", "replace") for a, b in zip(starts, ends, strict=True)
        )

    @functools.cached_property
    def spans(self) -> tuple[tuple[int, int], ...] | None:
        """Of each token its first character in the text, and the one behind its last."""
        if "tokens/spans" not in self._reader.entries:
            return None
        found, most = self._numbers("tokens/spans", 2), len(self.text or "")
        if not all(len(span) == 2 and 0 <= span[0] <= span[1] <= most for span in found):
            raise damaged(self.path, "where tokens stand in the text")
        return tuple((start, stop) for start, stop in found)

    @property
    def exact(self) -> bool:
        """Whether all numbers are those of the run, not rounded."""
        return all(layer.rounding is None for layer in self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[RecordedLayer]:
        return iter(self._layers)

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, {self.model!r}, {len(self)} layers)"

    def __str__(self) -> str:
        return as_text(self._summary, self._rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: a small table."""
        return as_html(self._summary, self._rows)

    @property
    def _summary(self) -> str:
        tokens = "" if self.tokens is None else f", {len(self.tokens):,} tokens"
        of = f"{self.model}, {len(self)} layers{tokens}, {size_in_words(self.size)}"
        return f"{shown(self.path.name)}: {of}"

    @property
    def _rows(self) -> list[Row]:
        return [
            Row(
                str(layer.number), layer.name, f"{layer.heads} heads",
                f"{layer.queries:,} × {layer.keys:,}", layer.dtype, rounding_in_words(layer.rounding),
            )
            for layer in self
        ]  # fmt: skip

    def _words(self, name: str) -> bytes:
        found = self._reader.tensor(name)
        if found.dtype != torch.uint8 or found.ndim != 1:
            raise damaged(self.path, name)
        return found.numpy().tobytes()

    def _numbers(self, name: str, dims: int) -> list[Any]:
        found = self._reader.tensor(name)
        if found.dtype != torch.int64 or found.ndim != dims:
            raise damaged(self.path, name)
        return found.tolist()


def _layer(reader: Reader, number: int, about: Any) -> RecordedLayer:
    """A layer whose tensors are there and fit together; its values are read when they are asked for."""
    parts = {}
    for part in ("q", "k", "v", "lse"):
        entry = reader.entries.get(f"layers/{number}/{part}")
        if entry is not None:
            parts[part] = entry
    if not {"q", "k", "lse"} <= set(parts):
        raise ValueError(f"layer {number} lacks tensors")
    q, k, v, lse = parts["q"], parts["k"], parts.get("v"), parts["lse"]
    good = len(q.shape) == len(k.shape) == 4 and 0 not in (*q.shape, *k.shape)
    good = good and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and q.dtype == k.dtype
    good = (
        good
        and q.shape[1] % k.shape[1] == 0
        and q.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
    good = good and lse.shape == q.shape[:3] and lse.dtype == torch.float32
    if v is not None:
        good = good and len(v.shape) == 4 and v.shape[:3] == k.shape[:3] and v.dtype == q.dtype
    if not good:
        raise ValueError(f"the shapes of layer {number} do not fit together")
    query, key = about["place"]
    if not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in (query, key)):
        raise ValueError(f"the place of layer {number}")
    rounding = about["rounding"]
    if rounding is not None:
        rounding = Rounding(
            float(rounding["greatest"]), float(rounding["rms"]), int(rounding["rows"])
        )
    return RecordedLayer(reader, number, _word(about["name"]), Place(query, key), rounding, about)


def _word(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{type(given).__name__} where a word belongs")
    return shown(given)
