"""A layer of a recording: any observer can be asked of it, as if the run were now."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from regard.attend import observe_spec
from regard.capture.interceptor import TextPosition
from regard.capture.watch import Pass, observe_in_text
from regard.errors import OptionError, RegardError
from regard.recording.container import TensorEntry, TensorFileReader, damaged
from regard.recording.head import RecordedHead
from regard.recording.inputs import Inputs, inputs_from_json
from regard.recording.schema import AnyValue, from_json
from regard.recording.text import Rounding, shown
from regard.shapes import Keys, Output, Queries, Values
from regard.spec.attention_spec import AttentionSpec
from regard.spec.biases import Bias
from regard.spec.masks import Given, Mask
from regard.spec.normalizers import Normalizer, Softmax
from regard.spec.observers import Observer
from regard.spec.scores import Score
from regard.weights import Weights

if TYPE_CHECKING:
    from regard.recording.reader import Recording

Result = TypeVar("Result")


class RecordedLayer:
    """The attention of one layer in a recorded run, read from the file where it is asked for."""

    run: Recording
    """The recording that it is of, which sets this."""

    def __init__(
        self,
        reader: TensorFileReader,
        number: int,
        name: str,
        place: TextPosition,
        rounding: Rounding | None,
        about: Any,
    ) -> None:
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

    @functools.cached_property
    def inputs(self) -> Inputs | None:
        """What the layer read, and its maps to queries, keys, values and back, where they were recorded."""
        about = self._about.get("inputs")
        if about is None:
            return None
        shapes = self.q.shape, self.k.shape, None if self.v is None else self.v.shape
        return self._guarded(lambda: inputs_from_json(about, self._shared, *shapes))

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
        return self._guarded(lambda: self._weights(self.spec))

    def head(self, number: int, batch: int = 0) -> RecordedHead:
        """One of its heads, in one batch row."""
        return RecordedHead(self, number, batch)

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
            raise OptionError(
                "see(…)", "no observers", "observers: Entropy(), TopK(8), Received() …", "Say what to see."
            )
        sides = self.place, self.mask, self.queries, self.keys
        results = self._guarded(lambda: observe_in_text(self._statistics, observers, *sides))
        return Pass(self.place, self.queries, self.keys, results)

    def out(self) -> Output:
        """The output of the layer's heads, before its projection: (b, h, q, dv).

        Raises:
            OptionError: values were not recorded.
        """
        v = self.v
        if v is None:
            raise OptionError(
                "out()",
                "a recording without values",
                "one made with values=True",
                "Record again: regard record --values, or record(…, values=True).",
            )
        return self._guarded(lambda: observe_spec(self.q, self.k, v, (), self.spec).out)

    def __repr__(self) -> str:
        b, h, q, d = self._entry("q").shape
        return f"RecordedLayer({self.number}, {self.name!r}, {b} × {h} heads of {d}, {q} × {self.keys})"

    @functools.cached_property
    def spec(self) -> AttentionSpec:
        """What the layer's calls said beside their tensors."""
        return AttentionSpec(self.mask, self.bias, self.score, self.normalizer)

    def _statistics(self, observers: Sequence[Observer[Any]], real: Given | None) -> dict[Observer[Any], Any]:
        spec = self.spec if real is None else self.spec.changed(mask=self.mask & real)
        if isinstance(self.normalizer, Softmax):
            weights = self.weights if real is None else self._weights(spec)
            return dict(zip(observers, weights.statistics(observers), strict=True))
        seen = observe_spec(self.q, self.k, self.k[..., :1], observers, spec)  # lse does not give its weights
        return {observer: seen[observer] for observer in observers}

    def _weights(self, spec: AttentionSpec) -> Weights:
        return Weights.of_spec(self.q, self.k, spec, self.lse, recorded=True)

    def _value(self, part: str, kind: type[AnyValue]) -> AnyValue:
        def read_value() -> AnyValue:
            return from_json(self._about.get(part), kind, self._shared)

        return self._guarded(read_value)

    def _shared(self, name: str) -> Tensor:
        if not name.startswith("held/"):
            raise ValueError(f"a value that holds {name[:40]!r}")
        return self._reader.tensor(name)

    def _tensor(self, part: str) -> Tensor:
        return self._reader.tensor(f"layers/{self.number}/{part}")

    def _entry(self, part: str) -> TensorEntry:
        return self._reader.entries[f"layers/{self.number}/{part}"]

    def _guarded(self, ask: Callable[[], Result]) -> Result:
        """What is asked, or that the file is damaged: not all of its numbers were held against each other."""
        try:
            return ask()
        except RegardError:
            raise
        except Exception as error:
            raise damaged(self._reader.path, f"layer {self.number}: {error}") from error


def layer_of(reader: TensorFileReader, number: int, about: Any) -> RecordedLayer:
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
    good = good and q.shape[1] % k.shape[1] == 0 and q.dtype in (torch.float32, torch.bfloat16, torch.float16)
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
        rounding = Rounding(float(rounding["greatest"]), float(rounding["rms"]), int(rounding["rows"]))
    return RecordedLayer(reader, number, printable_name(about["name"]), TextPosition(query, key), rounding, about)


def printable_name(given: Any) -> str:
    """A name in a file, without control characters.

    Raises:
        ValueError: it is no string.
    """
    if not isinstance(given, str):
        raise ValueError(f"{type(given).__name__} where a word belongs")
    return shown(given)
