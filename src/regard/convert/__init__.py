"""Conversion of attention weights from and to the layouts of other libraries, exactly.

`read` takes a state dict and gives that of a `regard.nn.MultiHeadAttention`; `write` is its inverse, bit
for bit. Both only split, transpose and join tensors, and need no modules or files. `find` lists the layouts in a
state dict, `sizes` returns the arguments of the layer for weights that were read.

================  ===========================================  ==========================================
layout            used by                                      arguments of an equivalent layer
================  ===========================================  ==========================================
"torch"           nn.MultiheadAttention                        nothing more
"torch-cross"     the same, with kdim and vdim                 nothing more
"timm"            vision transformers of timm                  qk_norm=nn.LayerNorm, where it has norms
"bert"            BERT, RoBERTa                                nothing more
"vit"             files of ViT and DeiT                        nothing more
"gpt2"            GPT-2 (Conv1D: transposed)                   Causal()
"llama"           Llama, Mistral, Qwen 2 and 3                 Causal(), Rotary(base); Mistral: Window;
                                                               Qwen 3: qk_norm=nn.RMSNorm
                  ViT in transformers 5, once loaded           nothing more
"bart"            BART, Whisper, OPT, CLIP                     Causal() in decoders
"t5"              T5                                           Dot(scale=1.0), and in every block
                                                               T5(table), which the first block holds
"neox"            GPT-NeoX, Pythia (fused head by head)        Causal(), Rotary(base, size)
                  BLOOM                                        Causal(), ALiBi(heads)
"phi3"            Phi-3 (fused, fewer rows for keys)           Causal(), Rotary(base)
================  ===========================================  ==========================================

The number of heads is stored in none of them: it is an argument, and is checked against the shapes as far as
they tell. Equal names do not always mean equal layers: Gemma has Llama's names, but its norms multiply by
1 + weight.

>>> from torch import nn
>>> from regard.nn import MultiHeadAttention
>>> torch_state = nn.MultiheadAttention(32, 4).state_dict()
>>> find(torch_state)
{'': 'torch'}
>>> state = read(torch_state, "torch", heads=4)
>>> layer = MultiHeadAttention(**sizes(state, heads=4))
>>> layer.load_state_dict(state)
<All keys matched successfully>
>>> list(write(layer.state_dict(), "torch", heads=4)) == list(torch_state)
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from regard.convert.layouts import LAYOUTS, PROJECTIONS, ByHead, Layout, Part
from regard.errors import DtypeError, OptionError, ShapeError

State = dict[str, Tensor]

__all__ = ["LAYOUTS", "Layout", "Part", "State", "find", "read", "sizes", "write"]


def find(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The attention layers of a state dict: the prefix and the layout of each.

    >>> from torch import nn
    >>> encoder = nn.TransformerEncoderLayer(32, 4)
    >>> find(encoder.state_dict())
    {'self_attn.': 'torch'}
    """
    layouts: dict[str, str] = {}
    for key in state:
        for layout in LAYOUTS:
            prefix = key.removesuffix(layout.parts[0].name)
            if prefix == key or (prefix and not prefix.endswith(".")):
                continue
            if all(prefix + part.name in state for part in layout.parts if part.needed):
                layouts[prefix] = layout.name
    return layouts


def read(
    state: Mapping[str, Tensor],
    layout: str | Layout,
    *,
    heads: int,
    key_value_heads: int | None = None,
    prefix: str = "",
) -> State:
    """The state dict of a `MultiHeadAttention`, from one in another layout.

    Args:
        state: Tensors by name: of one attention layer, or of a whole model and a `prefix`.
        layout: A name of `LAYOUTS`, or a `Layout`.
        heads, key_value_heads: Heads of the queries, and of the keys and values where they are fewer.
        prefix: The prefix of the layer's names. Everything under it must belong to the layer.

    Returns:
        Views of the given tensors, by the names of `MultiHeadAttention`; biases and norms only if present.

    Raises:
        OptionError: names that are missing, or that do not belong to the layout.
        ShapeError: tensors that do not fit together, or not the heads.
    """
    layout, shared = _layout(layout), _shared(heads, key_value_heads)
    prefix = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    given = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    names = {part.name: part.needed for part in layout.parts}
    extra = [key for key in given if key not in names and not key.startswith(layout.beside)]
    under = f" under {prefix!r}" if prefix else ""
    allowed = f"the names of layout {layout.name!r}{under}: {layout.names()}"
    _check_names(prefix, given, names, extra, allowed)
    ours: State = {}
    part_of: dict[str, Part] = {}
    for part in layout.parts:
        if part.name not in given:
            continue
        tensor = given[part.name]
        shape = part.shape(tensor.shape)
        if not shape:
            raise _shape_error(prefix + part.name, tensor, ("rows", "…"))
        rows = [shape[0]]
        if len(part.holds) > 1:
            heads_of_each = [heads if name.startswith("query.") else shared for name in part.holds]
            if rows[0] % sum(heads_of_each):
                fits = f"a multiple of {sum(heads_of_each)}, the heads of {', '.join(part.holds)}"
                raise _shape_error(prefix + part.name, tensor, part.shape((fits, *shape[1:])))
            rows = [n * (rows[0] // sum(heads_of_each)) for n in heads_of_each]
        ours.update(zip(part.holds, part.split(tensor, rows, heads), strict=True))
        part_of.update((name, part) for name in part.holds)
    for name, expected in _expected(ours, heads, shared):
        if not _fits(ours[name].shape, expected):
            part = part_of[name]
            rows = expected[0]
            if len(part.holds) > 1:  # a bias: as many rows as its weights
                rows = sum(ours[name.replace("bias", "weight")].shape[0] for name in part.holds)
            raise _shape_error(prefix + part.name, given[part.name], part.shape((rows, *expected[1:])))
    return ours


def write(
    state: Mapping[str, Tensor],
    layout: str | Layout,
    *,
    heads: int,
    key_value_heads: int | None = None,
    prefix: str = "",
) -> State:
    """The state dict of a `MultiHeadAttention` in another layout; the arguments are those of `read`.

    Raises:
        OptionError: names that are missing, or that the layout has no place for.
        ShapeError: tensors that do not fit together, or not the heads.
        DtypeError: tensors of several dtypes that the layout stores as one.
    """
    layout, shared = _layout(layout), _shared(heads, key_value_heads)
    prefix = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    parts = [p for p in layout.parts if p.needed or any(name in state for name in p.holds)]
    names = {name: True for part in parts for name in part.holds}
    every = ", ".join(name for part in layout.parts for name in part.holds)
    extra = [key for key in state if key not in names]
    _check_names("", state, names, extra, f"what layout {layout.name!r} has a place for: {every}")
    for name, expected in _expected(state, heads, shared):
        if not _fits(state[name].shape, expected):
            raise _shape_error(name, state[name], expected)
    theirs: State = {}
    for part in parts:
        ours = [state[name] for name in part.holds]
        if any(isinstance(part, ByHead) and t.shape[0] != ours[0].shape[0] for t in ours):
            raise ShapeError(
                "key_value_heads",
                shared,
                f"{heads}, the heads of the queries",
                f"Layout {layout.name!r} has no fewer heads of keys and values.",
            )
        kinds = dict.fromkeys(str(t.dtype) for t in ours)
        if len(kinds) > 1:
            raise DtypeError(
                part.name, " and ".join(kinds), "one dtype", f"It holds {', '.join(part.holds)}: convert them first."
            )
        theirs[prefix + part.name] = part.join(ours, heads)
    return theirs


def sizes(state: Mapping[str, Tensor], *, heads: int, key_value_heads: int | None = None) -> dict[str, Any]:
    """The arguments of the `MultiHeadAttention` with this state dict.

    Only arguments that determine shapes: not masks, positions, the score, or the kind of `qk_norm`.
    """
    shared = _shared(heads, key_value_heads)
    for name, expected in _expected(state, heads, shared):
        if not _fits(state[name].shape, expected):
            raise _shape_error(name, state[name], expected)
    (rows, width), (_, context) = state["query.weight"].shape, state["key.weight"].shape
    return {
        "width": width,
        "heads": heads,
        "key_value_heads": shared,
        "head_size": rows // heads,
        "value_size": state["value.weight"].shape[0] // shared,
        "context_width": None if context == width else context,
        "out_width": state["output.weight"].shape[0],
        "projection_bias": tuple(name for name in PROJECTIONS if f"{name}.bias" in state),
    }


def _layout(layout: str | Layout) -> Layout:
    if isinstance(layout, Layout):
        return layout
    for known in LAYOUTS:
        if known.name == layout:
            return known
    raise OptionError(
        "layout",
        repr(layout),
        ", ".join(repr(known.name) for known in LAYOUTS),
        "find(state) identifies it; a Layout describes another.",
    )


def _shared(heads: int, key_value_heads: int | None) -> int:
    if heads < 1:
        raise OptionError("heads", heads, "a whole number ≥ 1", "The model's config has it.")
    shared = heads if key_value_heads is None else key_value_heads
    if shared < 1 or heads % shared:
        raise OptionError(
            "key_value_heads",
            shared,
            f"a divisor of heads, {heads}",
            "None: every query head has a key head of its own.",
        )
    return shared


def _check_names(
    prefix: str, given: Iterable[str], names: Mapping[str, bool], extra: Sequence[str], allowed: str
) -> None:
    missing = [name for name, needed in names.items() if needed and name not in given]
    if missing:
        raise OptionError(
            "state",
            f"no {_quoted(prefix, missing)}, but {_quoted(prefix, list(given))}",
            allowed,
            "find(state) lists the layouts and prefixes that are there.",
        )
    if extra:
        raise OptionError(
            "state", _quoted(prefix, extra), allowed, "Leave out what is no part of it; nothing is dropped silently."
        )


def _quoted(prefix: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(repr(prefix + name) for name in names[:4]) or "nothing") + more


def _expected(ours: Mapping[str, Tensor], heads: int, shared: int) -> Iterable[tuple[str, tuple[int | str, ...]]]:
    """The expected shape of each tensor of a layer; a string for a size that is not determined.

    Ordered so that a tensor is checked before the expected shape of another depends on it.
    """
    for name in PROJECTIONS:
        if f"{name}.weight" not in ours:
            raise OptionError(
                "state",
                f"no '{name}.weight'",
                "a state dict of MultiHeadAttention",
                "read(…) makes one of other layouts.",
            )
    yield "query.weight", (_multiple(ours["query.weight"], heads), "any")
    d = ours["query.weight"].shape[0] // heads
    yield "key.weight", (shared * d, "any")
    yield "value.weight", (_multiple(ours["value.weight"], shared), *ours["key.weight"].shape[1:])
    yield "output.weight", ("any", ours["value.weight"].shape[0] // shared * heads)
    for name in PROJECTIONS:
        if f"{name}.bias" in ours:
            yield f"{name}.bias", (ours[f"{name}.weight"].shape[0],)
    for name in ("query_norm.weight", "query_norm.bias", "key_norm.weight", "key_norm.bias"):
        if name in ours:
            yield name, (d,)
    if "bias.table" in ours:
        yield "bias.table", ("any", heads)


def _multiple(tensor: Tensor, heads: int) -> int | str:
    """The tensor's rows, if they are a multiple of the heads."""
    rows = tensor.shape[0] if tensor.ndim else 0
    return rows if rows and rows % heads == 0 else f"a multiple of {heads}"


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(needed in (n, "any") for n, needed in pairs)


def _shape_error(name: str, tensor: Tensor, expected: Sequence[object]) -> ShapeError:
    return ShapeError(
        name,
        f"shape {tuple(tensor.shape)}",
        f"({', '.join(map(str, expected))})",
        "Check heads and key_value_heads, which no layout stores.",
    )
