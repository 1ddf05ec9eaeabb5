"""The cache: a value, exact at every step, wherever its keys came from and whatever was dropped."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from regard import KVCache, attention, observe
from regard.errors import OptionError, RegardError
from regard.nn import MultiHeadAttention, Transformer
from regard.positions import Learned, Rotary, Sinusoidal
from regard.shapes import Sizes
from regard.spec.biases import FIRE, T5, ALiBi, Kerple, Relative
from regard.spec.masks import Causal, Dilated, Documents, Mask, Padding, Prefix, Where, Window, dense
from regard.spec.normalizers import Softmax
from regard.spec.observers import Entropy, MeanDistance, Received
from regard.spec.scores import Dot, Shaw


class Plain:
    """What a cache is, as lists: for each batch row and key head its (number, position) in order."""

    def __init__(self, rows: list[list[list[tuple[float, int]]]], following: list[int]) -> None:
        self.rows, self.next = rows, following

    def extended(self, numbers: Tensor, real: Tensor) -> Plain:
        rows, following = [], list(self.next)
        for b, row in enumerate(self.rows):
            places = []
            for is_real in real[b].tolist():
                places.append(following[b] if is_real else -1)
                following[b] += is_real
            new = [list(zip(some, places, strict=True)) for some in numbers[b].tolist()]
            rows.append([head + more for head, more in zip(row, new, strict=True)])
        return Plain(rows, following)

    def kept(self, index: list[list[list[int]]]) -> Plain:
        rows = [
            [[head[i] for i in sorted(own)] for head, own in zip(*pair, strict=True)]
            for pair in zip(self.rows, index, strict=True)
        ]
        return Plain(rows, self.next)

    def reordered(self, rows: list[int]) -> Plain:
        return Plain([self.rows[i] for i in rows], [self.next[i] for i in rows])


def agree(cache: KVCache, plain: Plain) -> None:
    b, g = len(plain.rows), len(plain.rows[0])
    assert len(cache) == len(plain.rows[0][0])
    if not len(cache):
        return
    numbers = [[[number for number, _ in head] for head in row] for row in plain.rows]
    places = [[[place for _, place in head] for head in row] for row in plain.rows]
    assert cache.keys.tolist() == torch.tensor(numbers)[..., None].expand(-1, -1, -1, 3).tolist()
    assert cache.values.tolist() == torch.tensor(numbers)[..., None].neg().expand(-1, -1, -1, 2).tolist()
    assert cache.positions.expand(b, g, -1).tolist() == places
    assert torch.as_tensor(cache.next).expand(b).tolist() == plain.next


def sees(cache: KVCache, plain: Plain) -> None:
    b, g, n = len(plain.rows), len(plain.rows[0]), len(cache)
    q = min(n, 2)
    sizes = Sizes(b, 2 * g, g, q, n, 3, 2, torch.device("cpu"))
    table = dense(cache.mask(Causal() & Window(3)), sizes).tolist()
    for row, own in zip(plain.rows, table, strict=True):
        for h in range(2 * g):
            at = [place for _, place in row[h // 2]]
            assert own[h] == [[min(p, o) >= 0 and 0 <= p - o <= 3 for o in at] for p in at[n - q :]]


class Histories(RuleBasedStateMachine):
    """Any history of extending, dropping, reordering and branching, beside the same done with lists."""

    @initialize(b=st.integers(1, 3), g=st.integers(1, 2), static=st.booleans())
    def begin(self, b: int, g: int, static: bool) -> None:
        self.g, self.count = g, 0
        empty = Plain([[[] for _ in range(g)] for _ in range(b)], [0] * b)
        self.values = [(KVCache.static(24) if static else KVCache(), empty)]

    def pick(self, data: st.DataObject) -> tuple[KVCache, Plain]:
        # The latest mostly: an older one is a branch.
        from_end = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
        return self.values[-min(from_end, len(self.values))]

    def add(self, cache: KVCache, plain: Plain) -> None:
        self.values = [*self.values[-3:], (cache, plain)]
        for one in self.values:  # the older ones are what they were
            agree(*one)
        if len(cache):
            sees(cache, plain)

    @rule(data=st.data(), n=st.integers(0, 4), padded=st.booleans())
    def extend(self, data: st.DataObject, n: int, padded: bool) -> None:
        cache, plain = self.pick(data)
        if len(cache) + n > 24:
            return
        b, g = len(plain.rows), self.g
        self.count += 1
        numbers = torch.arange(b * g * n, dtype=torch.float32).reshape(b, g, n) + 100 * self.count
        k = numbers[..., None].expand(-1, -1, -1, 3)
        real = torch.ones(b, n, dtype=torch.bool)
        if padded and n:
            flags = data.draw(st.integers(0, 2 ** (b * n) - 1))
            real = torch.tensor([flags >> i & 1 for i in range(b * n)], dtype=torch.bool).reshape(b, n)
        created = cache.extend(k, -k[..., :2], real=real if padded else None)
        self.add(created, plain.extended(numbers, real))

    @rule(data=st.data(), seed=st.integers(0, 99), each=st.booleans())
    def keep(self, data: st.DataObject, seed: int, each: bool) -> None:
        cache, plain = self.pick(data)
        if not len(cache):
            return
        b, g, generator = len(plain.rows), self.g, torch.Generator().manual_seed(seed)
        count = data.draw(st.integers(1, len(cache)))
        shape = (b, g, len(cache)) if each else (len(cache),)
        index = torch.rand(shape, generator=generator).argsort(-1)[..., :count]
        self.add(cache.keep(index), plain.kept(index.expand(b, g, -1).tolist()))

    @rule(data=st.data(), budget=st.integers(1, 6))
    def keep_the_last(self, data: st.DataObject, budget: int) -> None:
        cache, plain = self.pick(data)
        created = cache.keep(budget)
        if len(cache) <= budget:
            assert created is cache
            return

        def late(head: list[tuple[float, int]]) -> list[int]:
            """Tokens before padding, late ones before early ones."""
            return sorted(range(len(head)), key=lambda i: (head[i][1] >= 0, i))[-budget:]

        self.add(created, plain.kept([[late(head) for head in row] for row in plain.rows]))

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        cache, plain = self.pick(data)
        if not len(cache):
            return
        rows = data.draw(st.lists(st.integers(0, len(plain.rows) - 1), min_size=1, max_size=3))
        self.add(cache.reorder(torch.tensor(rows)), plain.reordered(rows))


@pytest.mark.usefixtures("as_users_run_it")
class TestHistories(Histories.TestCase):
    settings = settings(max_examples=60, stateful_step_count=12)


# ------------------------------------------------------------ layers: chunks equal the whole


def layer_of(name: str) -> MultiHeadAttention:
    torch.manual_seed(1)
    created: dict[str, dict[str, Any]] = {
        "near": {"mask": Causal() & Window(4), "bias": Relative(torch.randn(4, 11))},
        "local": {"mask": Causal() & Window(5), "position": Rotary(), "qk_norm": nn.RMSNorm},
        "far": {"mask": Causal(), "bias": ALiBi(heads=4)},
        "t5, learned": {"bias": T5(torch.randn(8, 4), 20), "mask": Causal(), "position": Learned.fresh(40, 16)},
        "kerple, sink": {
            "bias": Kerple.learned(4),
            "mask": Causal(),
            "normalizer": Softmax(sink=torch.randn(4)),
            "score": Dot(softcap=2.0),
        },
        "prefix, sum": {
            "mask": Causal() & (Window(2) | Prefix(3)),
            "position": Sinusoidal(),
            "bias": ALiBi(4) + Relative(torch.randn(4, 7)),
        },
        "dilated": {"mask": Causal(offset=0) & (Dilated(3) | ~Window(4)), "position": Rotary()},
        "where": {
            "mask": Where(lambda b, h, q, k: (k <= q) & ((q * k + h) % 3 != 1)),
            "bias": Relative(torch.randn(4, 7), offset=1),
        },
        "shaw": {"mask": Causal(), "score": Shaw(torch.randn(7, 4), offset=0)},
        "fire": {"mask": Causal(), "bias": FIRE.learned(4, 8, length=6.0, offset=0)},
    }
    return MultiHeadAttention(16, 4, key_value_heads=2, **created[name]).eval()


LAYERS = ("near", "local", "far", "t5, learned", "kerple, sink", "prefix, sum", "dilated", "where")
WHOLE = ("shaw", "fire")
"""These need every key, and no padding at the end of a prompt."""


def in_steps(
    layer: MultiHeadAttention, rows: list[Tensor], cache: KVCache, first: str, steps: list[int]
) -> list[Tensor]:
    """Each row's outputs: prompts of the rows' own lengths padded on a side, then steps of all rows."""
    rest = sum(steps)
    lengths = [len(row) - rest for row in rows]
    width = max(lengths)
    x = torch.full((len(rows), width, 16), 7.0)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        part = slice(0, n) if first == "right" else slice(width - n, width)
        x[i, part], real[i, part] = row[:n], True
    out, cache = layer.extend(x, cache, real=None if first == "none" else real)
    outs = [[out[i, real[i]]] for i in range(len(rows))]
    done = torch.tensor(lengths)
    for n in steps:
        x = torch.stack([row[d : d + n] for row, d in zip(rows, done.tolist(), strict=True)])
        out, cache = layer.extend(x, cache)
        for i, parts in enumerate(outs):
            parts.append(out[i])
        done += n
    return [torch.cat(parts) for parts in outs]


@pytest.mark.parametrize(
    ("name", "padding"), [*itertools.product(LAYERS, ("none", "left", "right")), *((name, "none") for name in WHOLE)]
)
@torch.no_grad()
def test_chunks_equal_the_whole(name: str, padding: str) -> None:
    layer = layer_of(name)
    lengths = (17, 17, 17) if padding == "none" else (17, 12, 14)
    rows = [torch.randn(n, 16) for n in lengths]
    caches = [layer.new_cache(), KVCache(), KVCache.static(17)]
    for cache in caches[: 1 if padding == "right" and name != "near" else 3]:
        outs = in_steps(layer, rows, cache, padding, [1, 4, 1, 2])
        for row, out in zip(rows, outs, strict=True):
            torch.testing.assert_close(out, layer(row[None])[0], rtol=1e-4, atol=1e-5)


def test_only_windows_slide() -> None:
    assert [layer_of(name).new_cache().window for name in LAYERS[:3]] == [5, 6, None]
    assert layer_of("near").new_cache(9).size == 9
    for mask in (Window(3, ahead=1), Causal() & (Window(3) | Prefix(2)), None):
        assert MultiHeadAttention(16, 4, mask=mask).new_cache().window is None


@torch.no_grad()
def test_a_sliding_cache_is_a_window_whatever_the_chunks() -> None:
    layer = MultiHeadAttention(16, 2, mask=Causal(), bias=ALiBi(2))
    x = torch.randn(1, 30, 16)
    whole = layer(x, mask=Window(4))
    for steps in ([30], [1] * 30, [13, 2, 8, 1, 6]):
        outs, cache = [], KVCache.sliding(5)
        for part in x.split(steps, 1):
            out, cache = layer.extend(part, cache)
            assert len(cache) <= 4 + part.shape[1]
            outs.append(out)
        torch.testing.assert_close(torch.cat(outs, 1), whole)


# ------------------------------------------------------------ dropped keys


@pytest.mark.parametrize("each", [False, True], ids=["shared", "for each head"])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(
    ("mask", "bias"),
    [
        (Causal(), ALiBi(heads=4)),
        (Causal() & Window(9), Relative(torch.linspace(-1, 1, 60).reshape(4, 15))),
        (Causal() & (Prefix(6) | Dilated(2)), ALiBi(4) + T5(torch.linspace(-2, 2, 32).reshape(8, 4), 20)),
        (Where(lambda b, h, q, k: (k <= q) & (k % 3 != 1)), None),
    ],
    ids=["alibi", "window", "dilated", "where"],
)
def test_what_is_left_is_seen_as_if_the_rest_were_masked(mask: Mask, bias, n: int, each: bool) -> None:
    q, k, v = torch.randn(2, 4, n, 8), torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 6)
    old = slice(0, 20 - n)
    cache = KVCache().extend(k[:, :, old], v[:, :, old])
    index = torch.rand((2, 2, 20 - n) if each else (20 - n,)).argsort(-1)[..., :7]
    cache = cache.keep(index).extend(k[:, :, 20 - n :], v[:, :, 20 - n :])
    out = attention(q, cache.keys, cache.values, mask=cache.mask(mask), bias=cache.bias(bias))
    there = torch.zeros(2, 2, 20, dtype=torch.bool)
    there.scatter_(-1, (index if each else index[None, None]).expand(2, 2, -1), True)
    there[..., 20 - n :] = True
    queries = torch.arange(20 - n, 20)[:, None]
    token_mask = Where(lambda b, h, q, k: mask_at(mask, b, h, q + 20 - n, k))
    hidden = there.repeat_interleave(2, 1)[:, :, None]
    torch.testing.assert_close(out, attention(q, k, v, mask=token_mask & hidden, bias=bias))
    assert len(cache) == 7 + n
    assert cache.positions[..., -n:].flatten().tolist()[-n:] == queries.flatten().tolist()


def test_positions_stay_where_slots_move() -> None:
    k = torch.randn(1, 1, 4, 2)
    assert KVCache().extend(k, k).keep(torch.tensor([1, 0])).extend(k, k).positions.tolist() == [[[0, 1, 4, 5, 6, 7]]]
    assert KVCache().extend(k, k).keep(0).extend(k, k).positions.tolist() == [[[4, 5, 6, 7]]]
    slid = KVCache.sliding(3).extend(k, k).extend(k, k)  # from position 2 on
    sizes = Sizes(1, 1, 1, 4, 6, 2, 2, torch.device("cpu"))
    seen = dense(slid.mask(Prefix(4)), sizes)[0, 0].int().tolist()
    assert seen == [[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6, [0] * 6]


def mask_at(mask: Mask, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask asked about true positions, in a run over everything."""
    sizes = Sizes(2, 4, 2, 20, 20, 8, 6, torch.device("cpu"))
    return dense(mask, sizes)[b, h, q, k]


def test_gradients_of_a_bias_on_dropped_keys() -> None:
    bias = Kerple.learned(2)
    q, k, v = torch.randn(3, 1, 2, 9, 8).unbind()
    cache = KVCache().extend(k, v).keep(torch.tensor([0, 3, 4, 8]))
    attention(q[:, :, -1:], cache.keys, cache.values, bias=cache.bias(bias)).square().sum().backward()
    own = [t.grad for t in bias.tensors()]
    again = Kerple(*(t.detach().requires_grad_() for t in bias.tensors()))
    hidden = torch.zeros(9, dtype=torch.bool).index_fill(0, torch.tensor([0, 3, 4, 8]), True)
    attention(q[:, :, -1:], k, v, bias=again, mask=hidden).square().sum().backward()
    torch.testing.assert_close(own, [t.grad for t in again.tensors()])


def test_a_budget_keeps_recent_ones_and_heavy_ones() -> None:
    cache = KVCache().extend(torch.randn(1, 2, 8, 4), torch.randn(1, 2, 8, 4))
    by = torch.tensor(
        [[[5, 0, 3, 0, 1, 0, 0, 0], [0, 0, 0, 9, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 2, 0, 0, 9]]]
    )
    kept = cache.keep(4, by=by.float())  # two query heads to each key head
    assert kept.positions.tolist() == [[[0, 3, 6, 7], [1, 4, 6, 7]]]
    assert cache.keep(4, by=by.float(), recent=0).positions.tolist() == [[[0, 2, 3, 4], [1, 4, 6, 7]]]
    assert cache.keep(3, by=by.float(), recent=3).positions.tolist() == [[[5, 6, 7]] * 2]
    assert cache.keep(3).positions.tolist() == [[[5, 6, 7]]]
    assert cache.keep(8, by=by.float()) is cache
    nan = torch.full((1, 2, 8), torch.nan)
    assert cache.keep(2, by=nan, recent=0).positions.tolist() == [[[6, 7]] * 2]


def test_what_keys_received_goes_with_them() -> None:
    layer = layer_of("far")
    x = torch.randn(2, 12, 16)
    whole = layer.observe(x, Received())[Received()].unflatten(1, (2, 2)).sum(2)
    cache = layer.new_cache()
    for part in x.split([5, 1, 6], 1):
        _, cache = layer.extend_observed(part, cache, Received(), Entropy())
    assert cache.received is not None
    torch.testing.assert_close(cache.received, whole)
    torch.testing.assert_close(cache.mean_received, whole / torch.arange(12, 0, -1))
    assert KVCache().extend(x[:, None], x[:, None]).mean_received.eq(0).all()
    index = torch.tensor([[[0, 4, 9], [1, 2, 3]], [[3, 4, 5], [0, 5, 11]]])
    kept = cache.keep(index).reorder(torch.tensor([1, 1, 0]))
    torch.testing.assert_close(kept.received, whole.gather(-1, index)[[1, 1, 0]])
    longer = kept.extend(torch.randn(3, 2, 1, 4), torch.randn(3, 2, 1, 4))
    assert longer.received is not None
    assert longer.received[..., -1].eq(0).all()
    seen = observe(torch.randn(3, 4, 1, 4), longer.keys, longer.values, Received())
    assert longer.receive(seen[Received()]).received.sum() > longer.received.sum()  # pyright: ignore[reportOptionalMemberAccess]


# ------------------------------------------------------------ a value, and cheap


def test_a_token_costs_a_token() -> None:
    cache, buffers = KVCache(), set[int]()
    older = []
    for i in range(600):
        cache = cache.extend(torch.full((1, 2, 1, 4), float(i)), torch.full((1, 2, 1, 4), float(i)))
        buffers.add(cache.keys.untyped_storage().data_ptr())
        older.append(cache)
    assert len(buffers) <= 8
    for n in (1, 300, 599):
        assert older[n].keys[0, 1, :, 0].tolist() == list(range(n + 1))
    fixed = KVCache.static(600).extend(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    where = fixed.keys.data_ptr()
    for _ in range(599):
        fixed = fixed.extend(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert fixed.keys.data_ptr() == where


def test_a_window_keeps_its_memory() -> None:
    cache, buffers = KVCache.sliding(16), set[int]()
    for _ in range(500):
        cache = cache.extend(torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 1, 8))
        buffers.add(cache.keys.untyped_storage().data_ptr())
        assert cache.keys.untyped_storage().nbytes() <= 4 * 8 * (3 * 16 + 1)
    assert cache.positions.tolist() == [[list(range(484, 500))]]


class _Sizes(TorchDispatchMode):
    """The elements of every tensor that an operation makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not out._is_view():
            self.created.append(out.numel())
        return out


def test_attention_reads_the_buffer_where_it_lies() -> None:
    k, v = torch.randn(2, 2, 2, 500, 16).unbind()
    cache = KVCache.static(900).extend(k, v)
    assert not cache.keys.is_contiguous()
    q = torch.randn(2, 4, 1, 16)
    with _Sizes() as sizes:
        out = attention(q, cache.keys, cache.values, mask=cache.mask(Causal()), backend="native")
        observe(q, cache.keys, cache.values, Received(), mask=cache.mask(Causal()), backend="native")
    assert max(sizes.created) < k.numel() // 4
    torch.testing.assert_close(out, attention(q, k, v))


def test_gradients_flow_through_a_cache() -> None:
    k, v = (torch.randn(1, 2, 6, 4, requires_grad=True) for _ in range(2))
    q = torch.randn(1, 2, 6, 4)
    cache, outs = KVCache(), []
    for part in (slice(0, 3), slice(3, 4), slice(4, 6)):
        cache = cache.extend(k[:, :, part], v[:, :, part])
        outs.append(attention(q[:, :, part], cache.keys, cache.values, mask=cache.mask(Causal())))
    own = torch.autograd.grad(torch.cat(outs, 2).square().sum(), (k, v))
    whole = torch.autograd.grad(attention(q, k, v, mask=Causal()).square().sum(), (k, v))
    torch.testing.assert_close(own, whole)
    with torch.no_grad():
        longer = cache.extend(k[:, :, :1], v[:, :, :1])
    assert not longer.keys.requires_grad
    assert cache.keep(2).keys.requires_grad


def test_writing_behind_a_cache_leaves_saved_tensors_alone() -> None:
    q = torch.randn(1, 2, 1, 4, requires_grad=True)
    k, v = torch.randn(2, 1, 2, 5, 4).unbind()
    first = KVCache().extend(k, v)
    out = (q @ first.keys.mT).softmax(-1) @ first.values
    second = first.extend(k[:, :, :1], v[:, :, :1])
    assert second.keys.data_ptr() == first.keys.data_ptr()
    out.sum().backward()  # does not complain of an in-place change


def test_inference_mode_and_back() -> None:
    k = torch.randn(1, 1, 3, 4)
    with torch.inference_mode():
        cache = KVCache().extend(k, k).extend(k, k)
    after = cache.extend(k, k)
    assert torch.equal(after.keys, torch.cat((k, k, k), 2))
    with torch.inference_mode():
        assert torch.equal(after.extend(k, k).keys, torch.cat((k, k, k, k), 2))


def test_a_cache_is_copied_and_pickled() -> None:
    k = torch.randn(1, 1, 3, 4)
    cache = KVCache().extend(k, k)
    for twin in (copy.deepcopy(cache), copy.copy(cache), pickle.loads(pickle.dumps(cache))):
        one, other = twin.extend(k, k), cache.extend(-k, -k)
        assert torch.equal(one.keys, torch.cat((k, k), 2))
        assert torch.equal(other.keys, torch.cat((k, -k), 2))


# ------------------------------------------------------------ models


@pytest.fixture(scope="module")
def embedded() -> Any:
    from regard import models

    return models.load()


TEXT = '''def mean(numbers):
    """The mean of some numbers."""
    total = 0.0
    for number in numbers:
        total += number
    return total / len(numbers)
'''


@pytest.mark.parametrize("size", [None, 400])
@torch.no_grad()
def test_the_embedded_model_in_chunks(embedded: Any, size: int | None) -> None:
    tokens = torch.tensor([embedded.encode(TEXT * 5).ids])[:, :200]
    whole = embedded.model.hidden(tokens)
    caches, parts = embedded.model.new_caches(size), []
    for part in tokens.split([150, 1, 1, 7, 41], 1):
        hidden, caches = embedded.model.extend(part, caches)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-3)
    if size is None:
        assert [cache.window for cache in caches] == [32, 128, None, 128, None]


@torch.no_grad()
def test_generating_is_asking_again_and_again(embedded: Any) -> None:
    prompts = [embedded.encode(text).ids for text in (TEXT[:60], "for i in range(")]
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    real = torch.arange(width) >= torch.tensor([[width - len(ids)] for ids in prompts])
    created = embedded.model.generate(tokens, 5, real=real)
    for ids, row in zip(prompts, created.tolist(), strict=True):
        for token in row:
            assert int(embedded.model(torch.tensor([ids]))[0, -1].argmax()) == token
            ids = [*ids, token]
    torch.manual_seed(0)
    drawn = embedded.model.generate(tokens[1:], 4, temperature=2.0)
    torch.manual_seed(0)
    assert torch.equal(drawn, embedded.model.generate(tokens[1:], 4, temperature=2.0))
    assert not torch.equal(drawn, embedded.model.generate(tokens[1:], 4))


def test_a_budget_for_all_keys_costs_nothing_and_a_small_one_something(embedded: Any) -> None:
    from experiments import evaluate, evict

    tokens = torch.tensor([embedded.encode(TEXT * 2).ids])[:, :81]
    with torch.no_grad():
        hidden = embedded.model.hidden(tokens[:, :-1])[0, 40:]
        cost = evaluate.bits(embedded.model, hidden, tokens[0, 41:])
    width = torch.tensor(embedded.tokenizer.byte_lengths)[tokens[0, 41:]].sum()
    for policy in evict.POLICIES.values():
        assert evict.loss(embedded, tokens, policy, 96, 40) == pytest.approx(cost / int(width), abs=1e-4)
        assert evict.loss(embedded, tokens, policy, 16, 40) > cost / int(width) + 0.01
    cache = KVCache().extend(ones(1, 1, 20), ones(1, 1, 20))
    kept = evict.first_and_last(cache, torch.zeros(1, 1, 20), 6)
    assert kept.positions.tolist() == [[[0, 1, 2, 3, 18, 19]]]


@torch.no_grad()
def test_beams() -> None:
    layers = [MultiHeadAttention(16, 2, mask=Causal(), position=Rotary()) for _ in range(2)]
    model = Transformer(20, layers)
    for layer in layers:
        nn.init.normal_(layer.output.weight)
    tokens = torch.randint(20, (2, 6))
    _, caches = model.extend(tokens, model.new_caches())
    rows, more = torch.tensor([1, 1, 0]), torch.tensor([[3], [4], [5]])
    caches = [cache.reorder(rows) for cache in caches]
    hidden, caches = model.extend(more, caches)
    whole = model.hidden(torch.cat((tokens[rows], more), 1))
    torch.testing.assert_close(hidden[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------ refusals


def ones(b: int = 1, g: int = 2, n: int = 3, d: int = 4) -> Tensor:
    return torch.ones(b, g, n, d)


FULL = KVCache().extend(ones(), ones())
SCATTERED = FULL.keep(torch.tensor([0, 2]))
MODEL, ONE = Transformer(9, [MultiHeadAttention(8, 2)]), torch.zeros(1, 1, dtype=torch.long)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: KVCache().keys, "KVCache: got a cache without keys"),
        (lambda: KVCache.static(0), "KVCache.static(size): got 0; allowed: a whole number ≥ 1"),
        (lambda: KVCache.sliding(0), "KVCache.sliding(window): got 0"),
        (
            lambda: KVCache.static(4).extend(ones(), ones()).extend(ones(n=2), ones(n=2)),
            "extend: got 2 tokens after 3; allowed: 4 in all. Make KVCache.static larger",
        ),
        (lambda: FULL.extend(ones(d=5), ones()), "extend(k): got (1, 2, 3, 5)"),
        (lambda: FULL.extend(ones(), ones().double()), "extend(v): got (1, 2, 3, 4), torch.float64"),
        (lambda: KVCache().extend(ones(), ones(n=2)), "extend(v): got (1, 2, 2, 4); allowed: (1, 2, 3)"),
        (lambda: KVCache().extend(torch.ones(3, 4), ones()), "extend(k): got torch.float32, (3, 4)"),
        (lambda: FULL.extend(ones(), ones(), real=torch.ones(1, 3)), "extend(real): got torch.float32"),
        (lambda: FULL.keep(torch.tensor([0, 3])), "keep(indices): got slots 0 to 3; allowed: 0 to 2"),
        (lambda: FULL.keep(torch.tensor([1, 1])), "keep(indices): got a slot twice"),
        (lambda: FULL.keep(torch.tensor([[1]])), "keep(indices): got shape (1, 1)"),
        (lambda: FULL.keep(torch.tensor([True])), "keep(indices): got torch.bool"),
        (lambda: FULL.keep(-1), "keep(budget): got -1"),
        (lambda: FULL.keep(1, by=torch.ones(1, 3, 3)), "by: got shape (1, 3, 3); allowed: (1, h, 3)"),
        (lambda: FULL.receive(torch.ones(1, 2, 4)), "receive: got shape (1, 2, 4)"),
        (lambda: FULL.reorder(torch.tensor([[0]])), "reorder: got shape (1, 1)"),
        (
            lambda: SCATTERED.mask(Causal() & Padding(torch.tensor([2]))),
            "mask: got Padding with a cache that has dropped or padded keys",
        ),
        (lambda: SCATTERED.mask(Documents(torch.tensor([0, 1]))), "mask: got Documents"),
        (
            lambda: attention(ones(), SCATTERED.keys, SCATTERED.values, mask=SCATTERED.mask(Causal())),
            "PositionMask: got 3 queries and 2 keys",
        ),
        (
            lambda: attention(ones(n=1), FULL.keys, FULL.values, mask=SCATTERED.mask(Causal())),
            "PositionMask(keys=…): got shape (1, 1, 2); allowed: (1, 2, 3)",
        ),
        (lambda: SCATTERED.observed(MeanDistance()), "observers: got MeanDistance"),
        (lambda: SCATTERED.score(Shaw.learned(4)), "score: got Shaw with a cache that has dropped"),
        (lambda: FULL.score(Shaw.learned(4, offset=2)), "score: got Shaw with offset 2 in a cache"),
        (lambda: SCATTERED.bias(FIRE.learned(2)), "bias: got FIRE with a cache that has dropped"),
        (lambda: MODEL.extend(ONE, []), "caches: got 0; allowed: 1, one for each layer"),
        (lambda: MODEL.generate(ONE, 1, temperature=-1), "temperature: got -1"),
        (lambda: MODEL.generate(ONE, 1, real=ONE.bool()), "real: got padding at the end"),
    ],
)
def test_refusals_say_what_to_do(call: Any, said: str) -> None:
    with pytest.raises(RegardError) as error:
        call()
    assert str(error.value).startswith(said)


def test_masks_that_count_keys_serve_a_cache_that_has_them_all() -> None:
    padding = Padding(torch.tensor([2]))
    assert FULL.mask(padding) is padding
    with pytest.raises(OptionError):
        KVCache.sliding(2).extend(ones(), ones()).extend(ones(), ones()).mask(padding)
