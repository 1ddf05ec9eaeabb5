"""Recording a run: each layer's queries, keys and log-sum-exp go to the file as they are seen."""

from __future__ import annotations

import errno
import inspect
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.attend import observe
from regard.biases import Bias, Dense, Nothing, Relative, Sum, as_bias
from regard.errors import DtypeError, OptionError, ShapeError
from regard.masks import Mask
from regard.normalizers import as_normalizer
from regard.observers import LogSumExp, Rows
from regard.problem import sizes_of
from regard.recording.container import Writer
from regard.recording.forms import form_of, has_form
from regard.recording.opened import Recording
from regard.recording.words import Rounding, size_in_words
from regard.scores import Score, as_score
from regard.shapes import Keys, Queries, Sizes
from regard.tiles import Tabled
from regard.values import Value
from regard.watching import Listener, Place, on_regard, place_of

if TYPE_CHECKING:  # what not everybody needs, and takes time to import
    from regard.models import Embedded

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What queries and keys may be stored in, by the names that the command takes."""

ROWS, PAIRS = 16, 1 << 23
"""Queries of each head whose weights are held against the run's, and the most pairs that these may have."""


class Progress(NamedTuple):
    """Where a recording stands, before a layer is written."""

    layer: str
    done: int
    """Layers that are written."""
    layers: int
    """How many there will be, as far as the model's modules tell."""
    whole: int
    """Bytes that the file will have, if the other layers are like this one."""
    free: int
    """Bytes that the disk has left."""


def record(
    model: nn.Module | Embedded,
    inputs: str | Tensor | Mapping[str, Any] | Sequence[Any],
    *,
    to: str | Path,
    tokenizer: Any = None,
    text: str | None = None,
    tokens: Sequence[str] | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    values: bool = False,
    layers: str | int | Sequence[str | int] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Recording:
    """Run a model once and keep its attention in a file, of which any statistic can be asked later.

    For each layer the file holds queries, keys and the log-sum-exp of each row, with mask, bias, score and
    normalizer: from these every weight follows. It grows with the length of the text, not with its square,
    and is written as the layers run, so that never more than one of them is held. It takes its place when it
    is whole; until then what was there stays.

    Args:
        model: As `watch` takes it, or an embedded model, `regard.models.load()`.
        inputs: What the model is called with: a tensor of token ids, a mapping (``model(**inputs)``), or a
            sequence (``model(*inputs)``); or a text, with a tokenizer. The model is called once: of what
            `generate` does, record one pass over the whole text.
        to: Where the file will be; a file that is there is replaced.
        tokenizer: A fast tokenizer of transformers, for `inputs` that are a text.
        text, tokens, spans: What the inputs are in characters, for those who read the recording: the whole
            text, each token's own, and its (start, stop) in the text. Tokens are those of one row.
        name: What the model is called.
        dtype: In which queries, keys and values are kept; None is what the model computes in, or float32. In
            another the weights are rounded; the recording tells how much.
        values: Whether values are kept too, for outputs.
        layers: Which layers, as in `watch`.
        progress: Told of each layer before it is written, and so of the size before anything is.

    Raises:
        OptionError: no layer attended by regard; a score that is a function; the disk has no room.

    >>> import tempfile
    >>> from regard import Entropy, models, record
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = record(models.load(), "def f(x):\\n    return x", to=f"{folder}/run.safetensors")
    ...     run.tokens[1:4], run.layer(4).see(Entropy())[Entropy()].shape
    (('def', ' f', '('), torch.Size([1, 6, 9]))
    """
    dtype = _known(dtype)
    path = Path(to)
    if not path.parent.is_dir() or path.is_dir():
        raise OptionError("record(to=…)", str(path), "the path of a file in a folder that is there",
                          "Make the folder, or name a file in it.")  # fmt: skip
    read = _read(model, inputs, tokenizer, _Read(inputs, text, tokens, spans))
    module = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    if not isinstance(module, nn.Module):
        raise DtypeError("record(model)", f"a {type(module).__name__}", "a module of PyTorch",
                         "Give the model first, then its inputs.")  # fmt: skip
    called = name or (_name(module) if module is model else "python")
    room = 8192 + 256 * sum(1 for _ in module.modules())
    try:
        with Writer(path, min(room, 1 << 22)) as writer, torch.no_grad():
            recorder = _Recorder(writer, module, layers, dtype, values, progress)
            with on_regard(module), recorder.on(module):
                _run(module, read.inputs)
            recorder.finish(called, read)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OptionError("record(to=…)", f"{path}, whose disk is full", "a disk with room",
                          f"{_SMALLER} What was there is as it was.") from error  # fmt: skip
    return Recording.open(path)


_SMALLER = "Free some, write elsewhere, or record less: layers=…, dtype=torch.float16, no values."


@dataclass(frozen=True)
class _Read:
    """What a model is called with, and its text."""

    inputs: Any
    text: str | None
    tokens: Sequence[str] | None
    spans: Sequence[tuple[int, int]] | None


def _read(model: Any, inputs: Any, tokenizer: Any, given: _Read) -> _Read:
    """A text as a model's inputs; all else as it is."""
    if not isinstance(inputs, str):
        if given.spans is not None and given.text is None:
            raise OptionError("record(spans=…)", "spans without a text", "both, or none",
                              "Give text=… too.")  # fmt: skip
        return given
    from regard.models import Embedded
    from regard.models.tokens import START

    if isinstance(model, Embedded):
        found = model.encode(inputs)
        ids = torch.tensor([[model.tokens.start, *found.ids]])
        return _Read(ids, inputs, [START, *found.texts], [(0, 0), *found.spans])
    if tokenizer is None:
        raise OptionError("record(inputs)", "a text", "token ids, or a text with a tokenizer",
                          "Give tokenizer=…, the model's own.")  # fmt: skip
    read = tokenizer(inputs, return_offsets_mapping=True, return_tensors="pt")
    spans = [(int(start), int(stop)) for start, stop in read.pop("offset_mapping")[0].tolist()]
    names = tokenizer.convert_ids_to_tokens(read["input_ids"][0].tolist())
    texts = [inputs[a:b] if b > a else str(name) for name, (a, b) in zip(names, spans, strict=True)]
    return _Read(dict(read), inputs, texts, spans)


def _run(module: nn.Module, inputs: Any) -> None:
    """One pass, without what only the output needs."""
    from regard.nn import Transformer

    if isinstance(module, Transformer) and isinstance(inputs, Tensor):
        module.hidden(inputs)  # no logits
        return
    known = inspect.signature(module.forward).parameters
    spared: dict[str, Any] = {}
    if hasattr(module, "set_attn_implementation"):
        given = set(inputs) if isinstance(inputs, Mapping) else set()
        if "use_cache" in known and not given & {"use_cache", "past_key_values"}:
            spared["use_cache"] = False
        if "logits_to_keep" in known and not given & {"logits_to_keep", "labels"}:
            spared["logits_to_keep"] = 1
    if isinstance(inputs, Tensor):
        module(inputs, **spared)
    elif isinstance(inputs, Mapping):
        module(**inputs, **spared)
    else:
        module(*inputs, **spared)


class _Recorder(Listener):
    """Writes each layer as it is called."""

    def __init__(
        self, writer: Writer, model: nn.Module, layers: str | int | Sequence[str | int] | None,
        dtype: torch.dtype | None, values: bool, progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        super().__init__(layers)
        self.writer, self.model, self.dtype, self.values = writer, model, dtype, values
        self.progress = progress
        self.layers: list[dict[str, Any]] = []
        self.named: dict[str, int] = {}

    def hear(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, place: Place | None, call: dict[str, Any]
    ) -> Tensor:
        sizes = sizes_of(q, k, v)
        if 0 in sizes[:6]:
            raise ShapeError("record", f"{name}, a call of sizes {tuple(sizes[:6])}", "sizes of at least 1",
                             "Record a run over some text.")  # fmt: skip
        mask: Mask = call["mask"]
        where = place_of(None, sizes.q, sizes.k, mask) if place is None else place
        rows = _sampled(sizes)
        dtype = self.dtype or (q.dtype if q.dtype in DTYPES.values() else torch.float32)
        rounds = dtype != q.dtype
        seen = observe(q, k, v, LogSumExp(), *([Rows(*rows)] if rounds else ()), **call)
        score, bias = as_score(call.get("score")), as_bias(call.get("bias"))
        normalizer = as_normalizer(call.get("normalizer"))
        plain_q, plain_k, plain_score = _plain_score(name, q, k, score)
        for part, value in (("normalizer", normalizer), ("score", plain_score)):
            if not has_form(value):
                raise _wordless(name, part, value)
        self._announce(name, sizes, dtype)
        number = len(self.layers)
        for part, tensor in (("q", plain_q), ("k", plain_k), *((("v", v),) if self.values else ())):
            self.writer.put(f"layers/{number}/{part}", tensor, dtype)
        lse, rounding = seen[LogSumExp()], None
        if rounds:
            lse, rounding = _rounding(seen[Rows(*rows)], rows, plain_q, plain_k, dtype, {
                "mask": mask, "bias": bias, "score": plain_score, "normalizer": normalizer
            })  # fmt: skip
        self.writer.put(f"layers/{number}/lse", lse, torch.float32)
        hold = self.writer.hold
        again = self.named[name] = self.named.get(name, 0) + 1
        self.layers.append({
            "name": name if again == 1 else f"{name}:{again}",
            "place": list(where),
            "rounding": rounding and rounding.__dict__,
            "mask": form_of(_plain_mask(mask, sizes), hold),
            "bias": form_of(_plain_bias(bias, sizes), hold),
            "score": form_of(plain_score, hold),
            "normalizer": form_of(normalizer, hold),
        })  # fmt: skip
        return seen.out

    def finish(self, name: str, read: _Read) -> None:
        """Write the text, and what there is to say of the run."""
        if not self.layers:
            raise OptionError(
                "record", "a model none of whose wanted layers called regard.attention",
                "models of transformers that take attn_implementation, regard.nn, and your own",
                "Check layers=…; a model that computes attention by itself must call regard.attention.",
            )  # fmt: skip
        if read.text is not None:
            self.writer.put("tokens/text", _bytes(read.text.encode("utf-8", "replace")))
        if read.tokens is not None:
            texts = [token.encode("utf-8", "replace") for token in read.tokens]
            self.writer.put("tokens/texts", _bytes(b"".join(texts)))
            self.writer.put(
                "tokens/ends", torch.tensor([len(t) for t in texts], dtype=torch.int64).cumsum(0)
            )
        if read.spans is not None:
            self.writer.put(
                "tokens/spans", torch.tensor(list(read.spans), dtype=torch.int64).reshape(-1, 2)
            )
        about = {
            "model": name,
            "versions": _versions(),
            "text": read.text is not None,
            "layers": self.layers,
        }
        self.writer.finish(about, {"regard": about["versions"]["regard"]})

    def _announce(self, name: str, sizes: Sizes, dtype: torch.dtype) -> None:
        """Tell how large the file will be, and refuse what the disk cannot hold."""
        numbers = sizes.b * (sizes.h * sizes.q * sizes.d + sizes.g * sizes.k * sizes.d)
        numbers += sizes.b * sizes.g * sizes.k * sizes.dv * self.values
        mine = numbers * dtype.itemsize + 4 * sizes.b * sizes.h * sizes.q
        done = len(self.layers)
        layers = max(self._expected(name), done + 1)
        free = shutil.disk_usage(self.writer.path.parent).free
        left = mine * (layers - done)
        if self.progress is not None:
            self.progress(Progress(name, done, layers, self.writer.size + left, free))
        if left > free:
            raise OptionError("record(to=…)", f"{self.writer.path}, where {size_in_words(free)} are free",
                              f"a disk with the {size_in_words(left)} that are still to be written",
                              _SMALLER)  # fmt: skip

    def _expected(self, name: str) -> int:
        """Layers there will be: the modules of the kind of this one that are wanted."""
        kind = type(self.model.get_submodule(name))
        alike = [other for other, module in self.model.named_modules() if type(module) is kind]
        return sum(self.wants(other, number) for number, other in enumerate(alike))


def _sampled(sizes: Sizes) -> tuple[int, ...]:
    """Queries spread evenly over the text, the last among them."""
    most = PAIRS // (sizes.b * sizes.h * sizes.k)
    count = max(min(ROWS, most, sizes.q), 1)
    return tuple((i + 1) * sizes.q // count - 1 for i in range(count))


def _rounding(
    live: Tensor, rows: tuple[int, ...], q: Queries, k: Keys, dtype: torch.dtype, call: dict[str, Any]
) -> tuple[Tensor, Rounding]:  # fmt: skip
    """The log-sum-exp of rounded queries and keys, and how far their weights are from the run's."""
    q, k = q.to(dtype), k.to(dtype)
    seen = observe(q, k, k[..., :1], LogSumExp(), Rows(*rows), **call)
    apart = (seen[Rows(*rows)].double() - live.double()).abs()
    return seen[LogSumExp()], Rounding(
        float(apart.amax()), float(apart.square().mean().sqrt()), len(rows)
    )


def _plain_score(name: str, q: Queries, k: Keys, score: Score) -> tuple[Queries, Keys, Score]:
    """Queries, keys and a score that can be written: that of the call, or the dot product that it is."""
    if has_form(score):
        return q, k, score
    if score.components(q.shape[3]) is None:
        raise _wordless(name, "score", score)
    q, k, score = score.as_dot(q, k)
    return q, k, score


def _plain_mask(mask: Mask, sizes: Sizes) -> Mask:
    """A mask that can be written: in words, where it does not hold a number for each pair; else lowered."""
    pairs = max(sizes.q * sizes.k, 4096)
    if has_form(mask) and all(t.numel() < pairs for t in mask.tensors()):
        return mask
    return Tabled.of(mask, sizes)


def _plain_bias(bias: Bias, sizes: Sizes) -> Bias:
    """A bias that can be written: in words, or by distance and for each pair."""
    if has_form(bias):
        return bias
    table, pairs = bias.bind(sizes).lowered(sizes)
    made: Bias = Nothing() if pairs is None else Dense(pairs)
    if table is None:
        return made
    most = max(sizes.q, sizes.k) - 1
    wide = nn.functional.pad(table.expand(sizes.h, -1), (most - sizes.k + 1, most - sizes.q + 1))
    return Sum(Relative(wide, offset=0), made)


def _wordless(name: str, part: str, value: Value) -> OptionError:
    return OptionError("record", f"{name}, whose {part} is {value!r}",
                       "what regard itself has: Dot, Cosine, Euclidean, Additive, Shaw; Softmax and its kin",
                       "A file holds no functions: leave the layer out with layers=…")  # fmt: skip


def _known(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and dtype not in DTYPES.values():
        raise OptionError("record(dtype=…)", str(dtype), f"{', '.join(f'torch.{n}' for n in DTYPES)} or None",
                          "None is what the model computes in.")  # fmt: skip
    return dtype


def _name(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    return getattr(config, "name_or_path", "") or type(module).__name__


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"python": platform.python_version()}
    for library in ("regard", "torch", "transformers"):
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _bytes(data: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.zeros(0, dtype=torch.uint8)
    )
