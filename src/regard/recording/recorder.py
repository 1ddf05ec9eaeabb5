"""Recording a run: each layer's queries, keys and log-sum-exp go to the file as they are seen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard.capture.interceptor import InterceptedCall, Interceptor, on_regard
from regard.errors import DtypeError, OptionError, ShapeError
from regard.integrations.tokenized_text import TokenizedText
from regard.problem import sizes_of
from regard.recording.container import Writer
from regard.recording.inputs import Projections
from regard.recording.reader import Recording
from regard.recording.writer import DTYPES, SMALLER, Pages, Progress, Words
from regard.spec.attention_spec import AttentionSpec
from regard.system.atomic_files import disk_full

if TYPE_CHECKING:  # what not everybody needs, and takes time to import
    from regard.models import Embedded


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
    layer_inputs: bool = False,
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
        layer_inputs: Whether what each layer read is kept too, with its maps to queries, keys, values and
            back, where the names of its projections are known (`regard.convert`): for `inputs` of a layer.
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
    dtype, path = _known(dtype), _place(to)
    given, words = _read(model, inputs, tokenizer, Words(text, tokens, spans))
    module = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    if not isinstance(module, nn.Module):
        raise DtypeError(
            "record(model)",
            f"a {type(module).__name__}",
            "a module of PyTorch",
            "Give the model first, then its inputs.",
        )
    called = name or (_name(module) if module is model else "python")
    with writing(path, 8192 + 256 * sum(1 for _ in module.modules())) as writer, torch.no_grad():
        pages = Pages(writer, dtype, values, progress)
        reads = Projections(module) if layer_inputs else None
        recorder = _Recorder(pages, module, layers, reads)
        with on_regard(module), recorder.on(module), reads.on() if reads else nullcontext():
            _run(module, given)
        pages.finish(called, words)
    return Recording.open(path)


def keep(
    q: Tensor | Sequence[Tensor],
    k: Tensor | Sequence[Tensor],
    v: Tensor | Sequence[Tensor] | None,
    spec: AttentionSpec,
    to: str | Path,
    name: str,
    words: Words,
    dtype: torch.dtype | None,
) -> Recording:
    """What `Recording.of` does."""
    queries, keys = _several(q), _several(k)
    values = keys if v is None else _several(v)
    if not len(queries) == len(keys) == len(values) or not queries:
        counts = f"{len(queries)}, {len(keys)} and {len(values)} layers"
        raise ShapeError(
            "Recording.of(q, k, v)",
            counts,
            "as many of each, at least one",
            "Give one tensor each, or lists of the same length.",
        )
    dtype, path = _known(dtype), _place(to)
    with writing(path, 8192 + 256 * len(queries)) as writer, torch.no_grad():
        pages = Pages(writer, dtype, v is not None)
        for i, (one, other, value) in enumerate(zip(queries, keys, values, strict=True)):
            sizes = sizes_of(one, other, value)
            if words.tokens is not None and len(words.tokens) != max(sizes.q, sizes.k):
                given = f"{len(words.tokens)} for {sizes.q} queries and {sizes.k} keys"
                raise ShapeError(
                    "Recording.of(tokens=…)", given, "one for each key", "Leave them out, or give each its own."
                )
            pages.put(InterceptedCall(f"layer {i}", one, other, value, spec, "auto", None), len(queries))
        pages.finish(name, words)
    return Recording.open(path)


def _several(given: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [given] if isinstance(given, Tensor) else given


@contextmanager
def writing(path: Path, room: int) -> Iterator[Writer]:
    """A file in the making, with so many bytes for its header; a disk that is full is said."""
    try:
        with Writer(path, min(room, 1 << 22)) as writer:
            yield writer
    except OSError as error:
        if not disk_full(error):
            raise
        raise OptionError(
            "record(to=…)", f"{path}, whose disk is full", "a disk with room", f"{SMALLER} What was there is as it was."
        ) from error


def _read(model: Any, inputs: Any, tokenizer: Any, given: Words) -> tuple[Any, Words]:
    """A text as a model's inputs; all else as it is."""
    if not isinstance(inputs, str):
        return inputs, given
    from regard.models import Embedded

    if isinstance(model, Embedded):
        tokens = model.tokenizer.encode_file(inputs)
        return torch.tensor([tokens.ids]), Words(inputs, tokens.texts, tokens.spans)
    if tokenizer is None:
        raise OptionError(
            "record(inputs)", "a text", "token ids, or a text with a tokenizer", "Give tokenizer=…, the model's own."
        )
    encoding = tokenizer(inputs, return_offsets_mapping=True)
    tokens = TokenizedText.of_encoding(tokenizer, inputs, encoding)
    arrays = {name: torch.tensor([array]) for name, array in encoding.items() if name != "offset_mapping"}
    return arrays, Words(inputs, tokens.texts, tokens.spans)


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


class _Recorder(Interceptor):
    """Has each layer written as it is called."""

    def __init__(
        self, pages: Pages, model: nn.Module, layers: str | int | Sequence[str | int] | None, reads: Projections | None
    ) -> None:
        super().__init__(layers)
        self.pages, self.model, self.reads = pages, model, reads

    def handle(self, call: InterceptedCall) -> Tensor:
        read = None if self.reads is None else self.reads.take(call.layer, call.q, call.k, call.v)
        return self.pages.put(call, self._expected(call.layer), read)

    def _expected(self, name: str) -> int:
        """Layers there will be: the modules of the kind of this one that are wanted."""
        kind = type(self.model.get_submodule(name))
        alike = [other for other, module in self.model.named_modules() if type(module) is kind]
        return sum(self.includes(other, number) for number, other in enumerate(alike))


def _place(to: str | Path) -> Path:
    path = Path(to)
    if not path.parent.is_dir() or path.is_dir():
        raise OptionError(
            "record(to=…)",
            str(path),
            "the path of a file in a folder that is there",
            "Make the folder, or name a file in it.",
        )
    return path


def _known(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and dtype not in DTYPES.values():
        raise OptionError(
            "record(dtype=…)",
            str(dtype),
            f"{', '.join(f'torch.{n}' for n in DTYPES)} or None",
            "None is what the model computes in.",
        )
    return dtype


def _name(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    return getattr(config, "name_or_path", "") or type(module).__name__
