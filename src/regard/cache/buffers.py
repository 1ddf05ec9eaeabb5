"""Keys and values in a buffer that grows, of which every value sees its own part and none sees a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from regard.integrations.compat.torch_internals import forward_mode_active
from regard.spec.values import readable


class _Room(NamedTuple):
    """A buffer, and where its free slots begin."""

    keys: Tensor
    values: Tensor
    used: int

    def fits(self, n: int) -> bool:
        """Whether `n` slots may be written now."""
        # What was made in inference mode can only be written to there.
        allowed = torch.is_inference_mode_enabled() or not self.keys.is_inference()
        return allowed and self.used + n <= self.keys.shape[2]

    @torch.no_grad()
    def write(self, k: Tensor, v: Tensor) -> _Room:
        """The same buffer with these behind what was used."""
        end = self.used + k.shape[2]
        self.keys[:, :, self.used : end] = k
        self.values[:, :, self.used : end] = v
        return self._replace(used=end)

    def last(self, count: int) -> KeyValueBuffer:
        """The last `count` slots in use, with the right to write behind them."""
        part = slice(self.used - count, self.used)
        # `data` has a count of changes of its own: what autograd saved of this view stays as it is.
        return KeyValueBuffer(self.keys.data[:, :, part], self.values.data[:, :, part], [self])


@dataclass(frozen=True, eq=False)
class KeyValueBuffer:
    """Keys (b, g, n, d) and values (b, g, n, dv), and perhaps the right to write behind them.

    That right is given once, to the first that takes it: popping from a list is one step. So the first
    value that is `joined` to others writes in place, and a second one copies.
    """

    keys: Tensor
    values: Tensor
    _behind: list[_Room]

    @classmethod
    def copied(cls, k: Tensor, v: Tensor, spare: int) -> KeyValueBuffer:
        """A copy with room for `spare` more; where a gradient is wanted, these tensors themselves."""
        return _room(k, v, spare).last(k.shape[2]) if _writable(k, v) else cls(k, v, [])

    def joined(self, k: Tensor, v: Tensor, spare: int) -> KeyValueBuffer:
        """All of these and then those; if a new buffer must be made, with room for `spare` more."""
        n, more = self.keys.shape[2], k.shape[2]
        if not _writable(self.keys, self.values, k, v):
            return KeyValueBuffer(torch.cat((self.keys, k), 2), torch.cat((self.values, v), 2), [])
        try:
            room = self._behind.pop()
        except IndexError:
            room = None
        if room is None or not room.fits(more):
            room = _room(self.keys, self.values, more + spare)
        return room.write(k, v).last(n + more)

    def since(self, first: int) -> KeyValueBuffer:
        """The slots from `first` on: a view, with the same right."""
        return KeyValueBuffer(self.keys[:, :, first:], self.values[:, :, first:], self._behind)


def _room(k: Tensor, v: Tensor, spare: int) -> _Room:
    """A buffer with these in it and `spare` free slots behind."""
    k, v = k.detach(), v.detach()
    empty = (t.new_empty((*t.shape[:2], t.shape[2] + spare, t.shape[3])) for t in (k, v))
    return _Room(*empty, used=0).write(k, v)


def _writable(*tensors: Tensor) -> bool:
    """Whether buffers may be written in place: no gradient of any kind is wanted, and no trace is made."""
    if forward_mode_active():
        return False
    if not all(type(t) in (Tensor, Parameter) and readable(t) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
