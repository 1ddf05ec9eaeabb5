"""Masks, biases, scores and normalizers as JSON, and back: only regard's own, each field checked.

The JSON names a class of the table below and has a value for each of its fields there; a tensor is its name
in the file. Nothing else can be constructed from a file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from regard.cache.positions import PositionBias, PositionMask, SlotPadding
from regard.lowering.tiles import Tabled
from regard.spec.biases import FIRE, T5, ALiBi, Bias, ByDistance, Dense, Kerple, Nothing, Relative, Sum
from regard.spec.masks import (
    And,
    Blocks,
    Causal,
    Dilated,
    Documents,
    Everything,
    Given,
    Mask,
    Not,
    Or,
    Padding,
    Prefix,
    Window,
)
from regard.spec.normalizers import Entmax15, Sigmoid, Softmax, Sparsemax
from regard.spec.scores import Additive, Cosine, Dot, Euclidean, Shaw
from regard.spec.values import Value

AnyValue = TypeVar("AnyValue", bound=Value)
JsonValue = dict[str, Any]
Check = Callable[[Any], bool]

MOST_DEPTH = 50
"""Values within values."""

_FAR = 1 << 40  # no text is longer, and sums of a few such numbers still fit


def _whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and abs(x) <= _FAR


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _flag(x: Any) -> bool:
    return isinstance(x, bool)


def _side(x: Any) -> bool:
    return x in ("left", "right")


def _floats(*dims: int) -> Check:
    return lambda x: isinstance(x, Tensor) and x.is_floating_point() and x.ndim in dims


def _integers(*dims: int) -> Check:
    kinds = torch.int32, torch.int64, torch.uint8
    return lambda x: isinstance(x, Tensor) and x.dtype in kinds and x.ndim in dims


def _positions(x: Any) -> bool:
    """Positions of tokens: few enough for a table of all distances between them."""
    if not _integers(3)(x) or not x.numel():
        return False
    least, greatest = (int(end) for end in x.aminmax())
    return least >= -1 and greatest < 1 << 22


def _bools(*dims: int) -> Check:
    return lambda x: isinstance(x, Tensor) and x.dtype == torch.bool and x.ndim in dims


def _of(kind: type[Value]) -> Check:
    return lambda x: isinstance(x, kind)


def _or_none(check: Check) -> Check:
    return lambda x: x is None or check(x)


def _either(*checks: Check) -> Check:
    return lambda x: any(check(x) for check in checks)


_OFFSET: dict[str, Check] = {"offset": _or_none(_whole)}
_PAIR: dict[str, Check] = {"left": _of(Mask), "right": _of(Mask)}
_SLOTS: dict[str, Check] = {"keys": _positions, "queries": _or_none(_positions)}

FIELDS: dict[type[Value], dict[str, Check]] = {
    Everything: {},
    Causal: _OFFSET,
    Window: {**_OFFSET, "back": _whole, "ahead": _whole},
    Dilated: {**_OFFSET, "step": _whole},
    Prefix: {"length": _whole},
    Padding: {"lengths": _integers(1), "side": _side},
    Documents: {**_OFFSET, "ids": _integers(1, 2)},
    Blocks: {"table": _bools(2), "size": _whole},
    Given: {"table": _bools(0, 1, 2, 3, 4)},
    And: _PAIR,
    Or: _PAIR,
    Not: {"inner": _of(Mask)},
    SlotPadding: _SLOTS,
    PositionMask: {**_SLOTS, "inner": _of(Mask)},
    Tabled: {"runs": _or_none(_integers(5)), "kinds": _or_none(_integers(4)), "words": _or_none(_integers(2))},
    Nothing: {},
    ALiBi: {**_OFFSET, "slopes": _floats(1)},
    T5: {**_OFFSET, "table": _floats(2), "max_distance": _whole, "causal": _flag},
    Kerple: {**_OFFSET, "a": _floats(1), "c": _floats(1)},
    Relative: {**_OFFSET, "table": _floats(2)},
    FIRE: {
        **_OFFSET,
        "c": _floats(0),
        "multiplier": _floats(0),
        "hidden_weight": _floats(1),
        "hidden_bias": _floats(1),
        "weight": _floats(2),
        "bias": _floats(1),
        "length": _number,
    },
    Dense: {"table": _floats(0, 1, 2, 3, 4)},
    Sum: {"left": _of(Bias), "right": _of(Bias)},
    PositionBias: {**_SLOTS, "inner": _of(ByDistance)},
    Dot: {"scale": _or_none(_number), "softcap": _or_none(_number)},
    Cosine: {"scale": _either(_number, _floats(1))},
    Euclidean: {"scale": _or_none(_number)},
    Additive: {"weight": _floats(2)},
    Shaw: {**_OFFSET, "table": _floats(2, 3), "scale": _or_none(_number)},
    Softmax: {"sink": _or_none(_floats(1))},
    Sigmoid: {"shift": _or_none(_number)},
    Sparsemax: {},
    Entmax15: {},
}
"""Every class that a file may name, and what each of its fields may be; `bind` fills the others."""

_FILE_NAMES: dict[type[Value], str] = {SlotPadding: "Filled", PositionMask: "Placed", PositionBias: "PlacedBias"}
"""Names in files of classes that have been renamed since: the format stays."""

_BY_NAME = {_FILE_NAMES.get(kind, kind.__name__): kind for kind in FIELDS}


def can_serialize(value: Value, depth: int = 0) -> bool:
    """Whether a value can be written: regard's own throughout, with fields that can be read back."""
    fields = FIELDS.get(type(value))
    return (
        fields is not None
        and depth < MOST_DEPTH
        and all(check(getattr(value, name)) for name, check in fields.items())
        and all(
            can_serialize(getattr(value, name), depth + 1) for name in fields if isinstance(getattr(value, name), Value)
        )
    )


def to_json(value: Value, put_tensor: Callable[[Tensor], str]) -> JsonValue:
    """A value as JSON; `put_tensor` writes a tensor and returns its name."""
    form: JsonValue = {"is": _FILE_NAMES.get(type(value), type(value).__name__)}
    for name in FIELDS[type(value)]:
        content = getattr(value, name)
        if isinstance(content, Tensor):
            form[name] = {"tensor": put_tensor(content)}
        elif isinstance(content, Value):
            form[name] = to_json(content, put_tensor)
        else:
            form[name] = content
    return form


def from_json(form: Any, kind: type[AnyValue], tensor: Callable[[str], Tensor]) -> AnyValue:
    """The value that `to_json` wrote, which must be of a class.

    Raises:
        ValueError: it is no such JSON, or of another class.
    """
    value = _construct(form, tensor, 0)
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} where a {kind.__name__} belongs")
    return value


def _construct(form: Any, tensor: Callable[[str], Tensor], depth: int) -> Any:
    if not isinstance(form, dict):
        return form
    if set(form) == {"tensor"} and isinstance(form["tensor"], str):
        return tensor(form["tensor"])
    name = form.get("is")
    kind = _BY_NAME.get(name) if isinstance(name, str) else None
    if kind is None or depth >= MOST_DEPTH:
        raise ValueError(f"no value is called {str(name)[:40]!r}")
    fields = FIELDS[kind]
    if set(form) != {"is", *fields}:
        raise ValueError(f"{name} has other fields")
    contents = {part: _construct(form[part], tensor, depth + 1) for part in fields}
    for part, check in fields.items():
        if not check(contents[part]):
            raise ValueError(f"{name} has a {part} that it may not have")
    value = object.__new__(kind)
    defaults = {part.name: part.default for part in dataclasses.fields(kind)}
    value.__dict__.update(defaults, **contents)
    checked = getattr(value, "__post_init__", None)
    if checked is not None:
        checked()
    return value
