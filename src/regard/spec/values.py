"""Masks, biases, scores, normalizers and observers are values: immutable, comparable, composable."""

from __future__ import annotations

import ast
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self

import torch
from torch import Tensor

from regard.errors import DeviceError, OptionError
from regard.integrations.compat.torch_internals import functorch_active
from regard.shapes import Sizes


def _field_names(value: Value) -> tuple[str, ...]:
    if torch.compiler.is_compiling():  # a trace does not use the cache
        return tuple(part.name for part in dataclasses.fields(value))
    return _cached_field_names(type(value))


@functools.cache
def _cached_field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(part.name for part in dataclasses.fields(kind))


_PLAIN: tuple[type[Any], ...] = (int, float, str, tuple, NoneType)


@dataclass(frozen=True)
class Value:
    """An immutable description of one part of an attention call.

    Its fields may be tensors and other values. `tensors` and `with_tensors` read and replace the tensors, so that
    autograd sees them, and `bind` adapts the value to the sizes of a call.
    """

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of this value and of its inner values, in the order of fields."""
        tensors: list[Tensor] = []
        for content in self._contents():
            if isinstance(content, Tensor):
                tensors.append(content)
            elif isinstance(content, Value):
                tensors.extend(content.tensors())
        return tuple(tensors)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same value with other tensors, given in the order of `tensors`."""
        return self._replace_tensors(iter(tensors))

    def bind(self, sizes: Sizes) -> Self:
        """This value for a call of these sizes: checked, and with what depends on them filled in."""
        changes: dict[str, Any] = {}
        for name in _field_names(self):
            content = getattr(self, name)
            if isinstance(content, Tensor) and content.device != sizes.device:
                raise DeviceError(
                    type(self).__name__,
                    f"a tensor on {content.device}",
                    f"the device of the queries, {sizes.device}",
                    f"Move it with .to({str(sizes.device)!r}).",
                )
            if isinstance(content, Value):
                changes[name] = content.bind(sizes)
        return self._with(**changes) if changes else self

    def cast(self, dtype: torch.dtype) -> Self:
        """This value with its floating-point tensors in the dtype that a backend computes in."""
        tensors = self.tensors()
        if all(not t.is_floating_point() or t.dtype == dtype for t in tensors):
            return self
        return self.with_tensors([t.to(dtype) if t.is_floating_point() else t for t in tensors])

    def plain(self) -> bool:
        """Whether it consists of numbers and strings only, no tensors or functions: then it may be a cache key."""
        return all(
            content.plain() if isinstance(content, Value) else isinstance(content, _PLAIN)
            for content in self._contents()
        )

    def serialize(self) -> str | None:
        """This value as text, each of its tensors as "..."; None where it contains a function, which has no text.

        `deserialize` is the inverse: a graph of `torch.compile` holds the text and the tensors.
        """
        kind = type(self)
        if "<locals>" in kind.__qualname__:
            return None
        fields: list[str] = []
        for name in _field_names(self):
            content = getattr(self, name)
            if isinstance(content, Tensor):
                text = "..."
            elif isinstance(content, Value):
                text = content.serialize()
            else:
                text = repr(content) if isinstance(content, _PLAIN) else None
            if text is None:
                return None
            fields.append(f"{name!r}: {text}")
        return f"({f'{kind.__module__}:{kind.__qualname__}'!r}, {{{', '.join(fields)}}})"

    def cut(self, b: range, h: range, q: range) -> Self:
        """The part of this value that these batch rows, heads and queries need; views, no copies.

        Only a value with an entry for each query (a dense bias) is larger than its part.
        """
        del b, h, q
        return self

    def _contents(self) -> Iterator[Any]:
        return (getattr(self, name) for name in _field_names(self))

    def _with(self, **changes: Any) -> Self:
        """The same value with other contents that are known to be valid: faster than checking all of them again."""
        value = object.__new__(type(self))
        value.__dict__.update(self.__dict__, **changes)
        return value

    def _replace_tensors(self, tensors: Iterator[Tensor]) -> Self:
        changes: dict[str, Any] = {}
        for part in dataclasses.fields(self):
            content = getattr(self, part.name)
            if isinstance(content, Tensor):
                changes[part.name] = next(tensors)
            elif isinstance(content, Value):
                changes[part.name] = content._replace_tensors(tensors)
        return dataclasses.replace(self, **changes) if changes else self


def deserialize(text: str, tensors: Iterator[Tensor]) -> Value:
    """The value that `Value.serialize` returned as text, with tensors in the order of `Value.tensors`."""

    def build(form: Any) -> Value:
        module, name = form[0].split(":")
        if module not in sys.modules:
            raise OptionError(
                "a graph",
                f"a value of {form[0]}",
                "classes that are imported",
                f"Write import {module} before the graph runs.",
            )
        kind: Any = functools.reduce(getattr, name.split("."), sys.modules[module])
        value = object.__new__(kind)
        for name, content in form[1].items():
            inner = isinstance(content, tuple) and isinstance((None, *content)[-1], dict)
            value.__dict__[name] = build(content) if inner else next(tensors) if content is ... else content
        return value

    return build(ast.literal_eval(text))


@dataclass(frozen=True)
class Aligned(Value):
    """A value that depends on the positions of queries relative to the keys.

    Query ``i`` is at key position ``i + offset``. Without an offset the last query is at the position of the
    last key; ``offset=0`` puts the first query at the first key, as PyTorch's causal mask does.
    """

    offset: int | None = field(default=None, kw_only=True)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        return bound if self.offset is not None else bound._with(offset=sizes.offset)

    @property
    def shift(self) -> int:
        """The offset of a bound value."""
        if self.offset is None:
            raise AssertionError(f"{type(self).__name__} was used before bind()")
        return self.offset


def whole_number(name: str, given: object, least: int) -> int:
    """`given`, an argument that counts tokens.

    Raises:
        OptionError: it is no whole number of at least `least`.
    """
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise OptionError(name, repr(given), f"a whole number ≥ {least}", "Count in tokens.")
    return given


def readable(tensor: Tensor) -> bool:
    """Whether the tensor's values can be read now: not while tracing, nor inside a vmap."""
    if torch.compiler.is_compiling():
        return False
    if tensor.is_meta:
        return False
    return not functorch_active()
