"""Keys and values of the tokens so far, as a value: `cache = cache.extend(k, v)`.

>>> from regard import Causal, attention
>>> q, k, v = torch.randn(3, 1, 8, 100, 64).unbind()
>>> cache, outs = KVCache(), []
>>> for step in (slice(0, 90), slice(90, 99), slice(99, 100)):  # a prompt, a chunk, a token
...     cache = cache.extend(k[:, :, step], v[:, :, step])
...     outs.append(attention(q[:, :, step], cache.keys, cache.values, mask=cache.mask(Causal())))
>>> torch.allclose(torch.cat(outs, 2), attention(q, k, v, mask=Causal()), atol=1e-5)
True
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.cache.buffers import KeyValueBuffer
from regard.cache.positions import SlotPositions, Slots
from regard.errors import DtypeError, OptionError, ShapeError
from regard.shapes import Keys, Values
from regard.spec.biases import Bias, as_bias
from regard.spec.masks import Causal, Mask, Window, as_mask
from regard.spec.observers import Observer
from regard.spec.scores import Score
from regard.spec.values import Aligned, readable, whole_number


@dataclass(frozen=True, eq=False, repr=False)
class KVCache:
    """The keys and values of the tokens so far. `extend` returns a new cache and leaves this one as it is.

    Caches share a buffer with free slots at its end. The first extension of a cache writes there, so a token
    costs a token; a second extension of the same cache (another branch, a rejected draft) copies. Where
    gradients are needed, extending concatenates. The three kinds:

    - ``KVCache()`` grows as needed.
    - ``KVCache.static(size)`` reserves `size` slots at once; more than that is an error.
    - ``KVCache.sliding(window)`` keeps the keys that the next tokens may see, if each sees `window` of them,
      itself included. Its `mask` includes the window, so chunks of any sizes give the same outputs.

    A slot holds a key, a value and the position of its token. `mask` and `bias` use these positions, so they
    are exact after `keep`, in a window and with padded prompts, where plain indices would not be: `Causal`,
    `Window`, `Dilated`, `Prefix`, `Where` and every bias by distance. Rotary keys are stored rotated, and
    need nothing (a rotary scaling that changes with the length is the exception).

    Tensors are (b, g, slots, d). A cache is for self-attention to a token and those before it.
    """

    slots: Slots = field(default_factory=lambda: Slots(0, torch.device("cpu")))
    """Which token each slot holds."""
    next: int | Int[Tensor, " b"] = 0
    """The position of the next token, for all batch rows or for each: the number of tokens so far."""
    received: Float[Tensor, "b g k"] | None = None
    """The weight that each key has received so far, as passed to `receive`, from all heads that share it."""
    size: int | None = None
    window: int | None = None
    _buffer: KeyValueBuffer | None = None

    @classmethod
    def static(cls, size: int) -> KVCache:
        """An empty cache that reserves all of its slots when it first gets keys.

        >>> KVCache.static(512)
        KVCache(0 of 512 keys, next position 0)
        """
        return cls(size=whole_number("KVCache.static(size)", size, 1))

    @classmethod
    def sliding(cls, window: int) -> KVCache:
        """An empty cache for tokens that see the last `window` keys, their own included.

        >>> KVCache.sliding(128).extend(*torch.randn(2, 1, 1, 1000, 4)).extend(*torch.randn(2, 1, 1, 1, 4))
        KVCache(128 keys, a window of 128, next position 1001)
        """
        return cls(window=whole_number("KVCache.sliding(window)", window, 1))

    @property
    def keys(self) -> Keys:
        """(b, g, slots, d), a view of the buffer."""
        return self._nonempty_buffer().keys

    @property
    def values(self) -> Values:
        """(b, g, slots, dv), a view of the buffer."""
        return self._nonempty_buffer().values

    @property
    def positions(self) -> SlotPositions:
        """The position of the token in each slot, −1 for padding; the first two dimensions may be 1."""
        return self.slots.table()

    @property
    def mean_received(self) -> Float[Tensor, "b g k"]:
        """What each key has received on average from each token that could see it: (b, g, slots).

        Sums favour old keys, which more tokens have seen. Before the first `receive` all are 0.
        """
        if self.received is None:
            return torch.zeros(self.keys.shape[:3], device=self.slots.device)
        following = torch.as_tensor(self.next, device=self.slots.device).reshape(-1, 1, 1)
        return self.received / (following - self.positions).clamp(min=1)

    def __len__(self) -> int:
        return self.slots.count

    def __repr__(self) -> str:
        of = "" if self.size is None else f" of {self.size}"
        window = "" if self.window is None else f", a window of {self.window}"
        following = self.next if isinstance(self.next, int) else f"{self.next.min()} or more"
        return f"KVCache({len(self)}{of} keys{window}, next position {following})"

    # ------------------------------------------------------------ new tokens

    def extend(self, k: Keys, v: Values, *, real: Bool[Tensor, "b n"] | None = None) -> KVCache:
        """The cache with the keys and values of the next tokens; `real` is False where one is padding.

        Padding may be anywhere: on the left or the right of prompts of unequal lengths, or after rows that have
        ended. It takes a slot, which no query may see, and no position.
        """
        self._check(k, v, real)
        n = k.shape[2]
        if self.size is not None and len(self) + n > self.size:
            raise OptionError(
                "extend",
                f"{n} tokens after {len(self)}",
                f"{self.size} in all",
                "Make KVCache.static larger, or drop keys with keep(…).",
            )
        old = self if self.window is None else self._last_tokens(self.window - 1)
        positions, following = self._next_positions(n, real, k.device)
        slots = old.slots.extended(positions)
        received = old.received
        if received is not None:
            received = torch.nn.functional.pad(received, (0, n))
        spare, buffer = self._spare_slots(slots.count), old._buffer
        buffer = KeyValueBuffer.copied(k, v, spare) if buffer is None else buffer.extended(k, v, spare)
        return replace(self, slots=slots, next=following, received=received, _buffer=buffer)

    def upcoming(
        self, n: int, real: Bool[Tensor, "b n"] | None = None, device: torch.device | None = None
    ) -> Int[Tensor, "*b n"]:
        """The positions that the next `n` tokens will take, for rotary or added positions: (n,) or (b, n).

        >>> real = torch.tensor([[False, True, True], [True, True, True]])
        >>> KVCache().upcoming(3, real).tolist()  # the position of padding means nothing
        [[0, 0, 1], [0, 1, 2]]
        """
        positions, _ = self._next_positions(n, real, device or self.slots.device)
        return positions.clamp(min=0)

    # ------------------------------------------------------------ attention

    def mask(self, mask: Mask | Tensor | None = None) -> Mask:
        """A mask for the queries of the last tokens, such as ``cache.mask(Causal())``, exact on these keys.

        It is evaluated at the positions of the tokens; it also masks padding, and in a sliding cache the keys before
        a query's window. None masks only these. A bool tensor is indexed by slot, since it is for one call.

        >>> from regard.spec.masks import Causal, show
        >>> cache = KVCache().extend(*torch.randn(2, 1, 1, 6, 4)).keep(torch.tensor([0, 1, 4, 5]))
        >>> show(cache.mask(Causal() & Window(3)), queries=2, keys=4)
        .##.
        ..##
        """
        token_mask = as_mask(mask)
        if self.window is not None:
            token_mask = Causal() & Window(self.window - 1) & token_mask
        return self.slots.mask(token_mask)

    def bias(self, bias: Bias | Tensor | None) -> Bias:
        """A bias for the queries of the last tokens, exact on these keys: by distance between tokens.

        >>> from regard.spec.biases import ALiBi
        >>> cache = KVCache().extend(*torch.randn(2, 1, 1, 6, 4)).keep(torch.tensor([0, 4, 5]))
        >>> type(cache.bias(ALiBi(slopes=torch.tensor([0.5])))).__name__
        'PositionBias'
        """
        return self.slots.bias(as_bias(bias))

    def score(self, score: Score) -> Score:
        """A score for the queries of the last tokens. One that depends on distances needs every key in between."""
        return self.slots.score(score)

    def observed(self, observer: Observer[Any]) -> None:
        """Raise an error for an observer of distances where distances of slots are not those of their tokens."""
        if isinstance(observer, Aligned) and not self.slots.preserves_distances:
            self.slots.raise_unsupported("observers", observer)

    # ------------------------------------------------------------ fewer keys, other rows

    def receive(self, received: Float[Tensor, "b h k"]) -> KVCache:
        """The cache with ``seen[Received()]`` of a step added to what its keys have received.

        >>> cache = KVCache().extend(*torch.randn(2, 1, 1, 3, 4))
        >>> cache.receive(torch.ones(1, 2, 3)).received.tolist()  # two heads share the keys
        [[[2.0, 2.0, 2.0]]]
        """
        added = self._per_key_head("receive", received).to(torch.float32)
        return replace(self, received=added if self.received is None else self.received + added)

    def keep(
        self,
        kept: int | Int[Tensor, " kept"] | Int[Tensor, "b g kept"],
        *,
        by: Float[Tensor, "b h k"] | None = None,
        recent: int | None = None,
    ) -> KVCache:
        """The cache with some of its keys only: a copy, in the order of positions.

        `kept` names slots, for all or for each batch row and key head; or it is a budget. Then the `recent`
        last tokens stay (half of the budget, if not given) and of the others those with the greatest `by`, summed
        over the query heads that share a key. Without `by` the last tokens stay, and nothing else.

        - ``keep(budget, by=cache.received)``: what received most so far (heavy hitters, H2O, Zhang et al.,
          2023), if every step called `receive`; ``by=cache.mean_received`` does not favour old keys.
        - ``keep(budget, by=seen[Received()])`` of one token's step: what the last token attends to (TOVA, Oren
          et al., 2024); of a prompt with ``Received((n - 32, n))``: what its end attends to (SnapKV, Li et al.,
          2024).

        Dropped keys cannot be recovered. Later outputs are exact only if no later token may see the dropped keys.

        >>> cache = KVCache().extend(*torch.randn(2, 1, 1, 5, 4))
        >>> cache.keep(3, by=torch.tensor([[[0.1, 2.0, 0.3, 0.0, 0.0]]]), recent=2).positions.tolist()
        [[[1, 3, 4]]]
        """
        if isinstance(kept, int):
            if len(self) <= whole_number("keep(budget)", kept, 0):
                return self
            index = self._slots_within_budget(kept, by, recent)
        else:
            index = self._checked_slots(kept)
        return self._select_slots(index)

    def reorder(self, rows: Int[Tensor, " rows"]) -> KVCache:
        """The cache with these batch rows, in this order: for beam search. A copy; rows may repeat.

        >>> KVCache().extend(*torch.randn(2, 1, 1, 5, 4)).reorder(torch.tensor([0, 0, 0])).keys.shape
        torch.Size([3, 1, 5, 4])
        """
        if rows.ndim != 1:
            raise ShapeError(
                "reorder",
                f"shape {tuple(rows.shape)}",
                "(rows,): the rows of the new batch",
                "Number the beams of all rows from 0 to b · beams − 1.",
            )
        buffer = KeyValueBuffer.copied(self.keys[rows], self.values[rows], self._spare_slots(len(self)))
        following = self.next if isinstance(self.next, int) else self.next[rows]
        received = None if self.received is None else self.received[rows]
        slots = self.slots.reordered(rows)
        return replace(self, slots=slots, next=following, received=received, _buffer=buffer)

    def _slots_within_budget(self, budget: int, by: Tensor | None, recent: int | None) -> Tensor:
        """The slots to keep within a budget, (b | 1, g | 1, budget), ascending."""
        positions = self.slots.table()
        if by is None:
            recent = budget
            priority = torch.zeros(positions.shape, dtype=torch.float32, device=positions.device)
        else:
            recent = budget // 2 if recent is None else whole_number("keep(recent)", recent, 0)
            priority = self._per_key_head("by", by).to(torch.float32)
        real = positions >= 0
        age = real.flip(-1).cumsum(-1).flip(-1)  # 1 for the last real slot
        priority = torch.where(age <= recent, torch.inf, priority.nan_to_num(nan=0.0))
        priority = torch.where(real, priority, -torch.inf)
        # Of equal priorities the later token stays.
        order = priority.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :budget]
        return (len(self) - 1 - order).sort(dim=-1).values

    def _checked_slots(self, kept: Tensor) -> Tensor:
        b, g = self.keys.shape[:2]
        if kept.is_floating_point() or kept.dtype == torch.bool:
            raise DtypeError(
                "keep(indices)",
                str(kept.dtype),
                "an integer tensor of slots",
                "Write mask.nonzero() for a bool tensor.",
            )
        if kept.ndim != 1 and not (kept.ndim == 3 and kept.shape[0] in (1, b) and kept.shape[1] in (1, g)):
            raise ShapeError(
                "keep(indices)",
                f"shape {tuple(kept.shape)}",
                f"(kept,), or ({b}, {g}, kept) where a shared dimension may be 1",
                "Give the same number of slots for each batch row and head.",
            )
        index = (kept if kept.ndim == 3 else kept[None, None]).sort(dim=-1).values
        if readable(index) and index.numel():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= len(self):
                raise OptionError(
                    "keep(indices)",
                    f"slots {low} to {high}",
                    f"0 to {len(self) - 1}",
                    "Slots count from 0, whatever their tokens' positions.",
                )
            if bool((index[..., 1:] == index[..., :-1]).any()):
                raise OptionError(
                    "keep(indices)", "a slot twice", "each slot once", "A repeated key would count twice."
                )
        return index

    def _select_slots(self, index: Tensor) -> KVCache:
        """The cache with the slots of a sorted (b | 1, g | 1, kept)."""
        keys, values = self.keys, self.values
        b, g = keys.shape[:2]
        if index.shape[:2] == (1, 1):
            selected = keys[:, :, index[0, 0]], values[:, :, index[0, 0]]
        else:
            expanded = index.expand(b, g, -1)[..., None]
            selected = torch.take_along_dim(keys, expanded, 2), torch.take_along_dim(values, expanded, 2)
        received = self.received
        if received is not None:
            received = torch.take_along_dim(received, index.expand(b, g, -1), 2)
        buffer = KeyValueBuffer.copied(*selected, self._spare_slots(index.shape[-1]))
        return replace(self, slots=self.slots.at(index), received=received, _buffer=buffer)

    def _last_tokens(self, count: int) -> KVCache:
        """The last tokens of each row: a view of the last slots, if none of them is padding."""
        first = len(self) - count
        if first <= 0:
            return self
        positions = self.slots.positions
        if positions is not None and readable(positions) and bool((positions[..., first:] < 0).any()):
            return self.keep(count)
        received = None if self.received is None else self.received[..., first:]
        slots, buffer = self.slots.since(first), self._nonempty_buffer().since(first)
        return replace(self, slots=slots, received=received, _buffer=buffer)

    def _per_key_head(self, name: str, numbers: Tensor) -> Tensor:
        """A number for each key of each query head or key head, summed to key heads: (b, g, k)."""
        b, g, n = self.keys.shape[:3]
        if numbers.ndim != 3 or numbers.shape[0] != b or numbers.shape[2] != n or numbers.shape[1] % g:
            raise ShapeError(
                name,
                f"shape {tuple(numbers.shape)}",
                f"({b}, h, {n}), h a multiple of {g}",
                "Observe Received() in a call on these keys, and pass it at once.",
            )
        return numbers.detach().reshape(b, g, -1, n).sum(2)

    def _next_positions(self, n: int, real: Tensor | None, device: torch.device) -> tuple[Tensor, int | Tensor]:
        """The positions of the next `n` tokens, (n,) or (b, n), −1 for padding; and the one after these."""
        if real is not None and readable(real) and bool(real.all()):
            real = None
        if real is None and isinstance(self.next, int):
            return torch.arange(self.next, self.next + n, device=device), self.next + n
        following = torch.as_tensor(self.next, device=device).reshape(-1, 1)
        if real is None:
            return following + torch.arange(n, device=device), self.next + n
        count = real.cumsum(1)
        positions = torch.where(real, following + count - 1, -1)
        return positions, (following + count[:, -1:])[:, 0]

    def _nonempty_buffer(self) -> KeyValueBuffer:
        if self._buffer is None:
            raise OptionError(
                "KVCache", "a cache without keys", "one that was extended", "Write cache = cache.extend(k, v) first."
            )
        return self._buffer

    def _spare_slots(self, needed: int) -> int:
        """Slots to reserve behind what is needed now, when a buffer is made."""
        if self.size is not None:
            return self.size - needed
        return max(needed // 2, 64) if self.window is None else self.window

    def _check(self, k: object, v: object, real: object) -> None:
        layout = "(batch, key heads, tokens, head size)"
        buffer = self._buffer
        current = (None, None) if buffer is None else (buffer.keys, buffer.values)
        for name, new, old in zip("kv", (k, v), current, strict=True):
            if not isinstance(new, Tensor) or new.ndim != 4 or not new.is_floating_point():
                given = f"{new.dtype}, {tuple(new.shape)}" if isinstance(new, Tensor) else repr(new)
                raise ShapeError(
                    f"extend({name})",
                    given,
                    f"a float tensor {layout}",
                    "Give the keys and values as attention takes them.",
                )
            if old is None:
                continue
            fits = [*old.shape[:2], old.shape[3]] == [*new.shape[:2], new.shape[3]]
            if not fits or new.dtype != old.dtype or new.device != old.device:
                raise ShapeError(
                    f"extend({name})",
                    f"{tuple(new.shape)}, {new.dtype} on {new.device}",
                    f"{tuple(old.shape)} but for the tokens, {old.dtype} on {old.device}",
                    "A cache holds the keys of one layer for one batch.",
                )
        assert isinstance(k, Tensor)
        assert isinstance(v, Tensor)
        if k.shape[:3] != v.shape[:3]:
            raise ShapeError(
                "extend(v)",
                tuple(v.shape),
                f"{tuple(k.shape[:3])}, as k, and a head size",
                "Keys and values come in pairs.",
            )
        if real is None:
            return
        expected = (k.shape[0], k.shape[2])
        if not isinstance(real, Tensor) or real.dtype != torch.bool or real.shape != expected:
            given = f"{real.dtype}, {tuple(real.shape)}" if isinstance(real, Tensor) else repr(real)
            raise ShapeError(
                "extend(real)",
                given,
                f"a bool tensor {expected}, False where a token is padding",
                "Give attention_mask.bool() for these tokens.",
            )
