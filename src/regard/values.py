"""Masks, biases, scores, normalizers and observers are values: immutable, comparable, composable."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from regard.errors import DeviceError
from regard.shapes import Sizes


@dataclass(frozen=True)
class Value:
    """An immutable description of one part of an attention call.

    Its fields may hold tensors and other values. The tensors can be taken out and put back, so that
    autograd sees them (`tensors`, `with_tensors`), and `bind` fits the value to the sizes of a call.
    """

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that this value holds, its own first field first, those of inner values in place."""
        found: list[Tensor] = []
        for content in self._contents():
            if isinstance(content, Tensor):
                found.append(content)
            elif isinstance(content, Value):
                found.extend(content.tensors())
        return tuple(found)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same value with other tensors, given in the order of `tensors`."""
        return self._refilled(iter(tensors))

    def bind(self, sizes: Sizes) -> Self:
        """This value for a call of these sizes: checked, and with what depends on them filled in."""
        for tensor in self.tensors():
            if tensor.device != sizes.device:
                raise DeviceError(
                    type(self).__name__,
                    f"a tensor on {tensor.device}",
                    f"the device of the queries, {sizes.device}",
                    f"Move it with .to({str(sizes.device)!r}).",
                )
        changes = {
            part.name: content.bind(sizes)
            for part in dataclasses.fields(self)
            if isinstance(content := getattr(self, part.name), Value)
        }
        return dataclasses.replace(self, **changes) if changes else self

    def cast(self, dtype: torch.dtype) -> Self:
        """This value with its floating-point tensors in the dtype that a backend computes in."""
        tensors = self.tensors()
        if all(not t.is_floating_point() or t.dtype == dtype for t in tensors):
            return self
        return self.with_tensors([t.to(dtype) if t.is_floating_point() else t for t in tensors])

    def cut(self, b: range, h: range, q: range) -> Self:
        """The part of this value that these batch rows, heads and queries need; views, no copies.

        Only a value that holds something for each query (a dense bias) has less to give than itself.
        """
        del b, h, q
        return self

    def _contents(self) -> Iterator[Any]:
        return (getattr(self, part.name) for part in dataclasses.fields(self))

    def _refilled(self, tensors: Iterator[Tensor]) -> Self:
        changes: dict[str, Any] = {}
        for part in dataclasses.fields(self):
            content = getattr(self, part.name)
            if isinstance(content, Tensor):
                changes[part.name] = next(tensors)
            elif isinstance(content, Value):
                changes[part.name] = content._refilled(tensors)
        return dataclasses.replace(self, **changes) if changes else self


@dataclass(frozen=True)
class Aligned(Value):
    """A value that depends on where queries stand among the keys.

    Query ``i`` stands at key position ``i + offset``. Without an offset the last query stands at the
    last key; ``offset=0`` puts the first query at the first key, as PyTorch's causal mask does.
    """

    offset: int | None = field(default=None, kw_only=True)

    def bind(self, sizes: Sizes) -> Self:
        bound = super().bind(sizes)
        return bound if self.offset is not None else dataclasses.replace(bound, offset=sizes.offset)

    @property
    def shift(self) -> int:
        """The offset of a bound value."""
        if self.offset is None:
            raise AssertionError(f"{type(self).__name__} was used before bind()")
        return self.offset


def readable(tensor: Tensor) -> bool:
    """Whether the tensor's numbers can be looked at now: not while tracing, nor inside a vmap."""
    if torch.compiler.is_compiling():
        return False
    if tensor.device.type == "meta":
        return False
    return not torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]
