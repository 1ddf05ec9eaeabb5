"""Growing buffers of keys and values. Several views share one buffer, and none sees another's changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from regard.integrations.compat.torch_internals import forward_mode_active
from regard.spec.values import readable


class _Allocation(NamedTuple):
    """Memory for keys and values, of which the first `used` slots are in use."""

    keys: Tensor
    values: Tensor
    used: int

    def can_append(self, n: int) -> bool:
        """Whether `n` slots may be written now."""
        # Tensors from inference mode can only be written to in inference mode.
        allowed = torch.is_inference_mode_enabled() or not self.keys.is_inference()
        return allowed and self.used + n <= self.keys.shape[2]

    @torch.no_grad()
    def append(self, k: Tensor, v: Tensor) -> _Allocation:
        """The same memory with these keys and values after the used slots."""
        end = self.used + k.shape[2]
        self.keys[:, :, self.used : end] = k
        self.values[:, :, self.used : end] = v
        return self._replace(used=end)

    def last(self, count: int) -> KeyValueBuffer:
        """The last `count` slots in use, with the right to append after them."""
        part = slice(self.used - count, self.used)
        # `data` has its own version counter, so a later write does not invalidate what autograd saved of this view.
        return KeyValueBuffer(self.keys.data[:, :, part], self.values.data[:, :, part], [self])


@dataclass(frozen=True, eq=False)
class KeyValueBuffer:
    """Keys (b, g, n, d) and values (b, g, n, dv), perhaps with the right to append to their memory in place.

    The first caller of `extended` takes that right and writes in place; later ones copy. Popping from a list is
    atomic, so two threads cannot both take it.
    """

    keys: Tensor
    values: Tensor
    _append_right: list[_Allocation]

    @classmethod
    def copied(cls, k: Tensor, v: Tensor, spare: int) -> KeyValueBuffer:
        """A copy with memory for `spare` more slots; where gradients are needed, the tensors themselves."""
        return _allocate(k, v, spare).last(k.shape[2]) if _writable(k, v) else cls(k, v, [])

    def extended(self, k: Tensor, v: Tensor, spare: int) -> KeyValueBuffer:
        """All slots of this buffer, then `k` and `v`; new memory, if needed, has `spare` more slots."""
        n, added = self.keys.shape[2], k.shape[2]
        if not _writable(self.keys, self.values, k, v):
            return KeyValueBuffer(torch.cat((self.keys, k), 2), torch.cat((self.values, v), 2), [])
        try:
            allocation = self._append_right.pop()
        except IndexError:
            allocation = None
        if allocation is None or not allocation.can_append(added):
            allocation = _allocate(self.keys, self.values, added + spare)
        return allocation.append(k, v).last(n + added)

    def since(self, first: int) -> KeyValueBuffer:
        """The slots from `first` on: a view that shares the right to append."""
        return KeyValueBuffer(self.keys[:, :, first:], self.values[:, :, first:], self._append_right)


def _allocate(k: Tensor, v: Tensor, spare: int) -> _Allocation:
    """New memory with these keys and values and `spare` free slots after them."""
    k, v = k.detach(), v.detach()
    empty = (t.new_empty((*t.shape[:2], t.shape[2] + spare, t.shape[3])) for t in (k, v))
    return _Allocation(*empty, used=0).append(k, v)


def _writable(*tensors: Tensor) -> bool:
    """Whether buffers may be written in place: no gradient of any kind is needed, and nothing is being traced."""
    if forward_mode_active():
        return False
    if not all(type(t) in (Tensor, Parameter) and readable(t) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
