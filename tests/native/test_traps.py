"""Regressions of the kernels, each a test: masks, numbers that are not finite, places in memory.

The numbers that any formula gets right are test_fuzz.py's, and what befalls a process is test_process.py's.
"""

from __future__ import annotations

import dataclasses
import mmap

import numpy as np
import pytest
import torch
from torch import Tensor

from native.raw import Recipe, check, compare, reference, run
from regard._native import core

pytestmark = pytest.mark.usefixtures("isa")


once = pytest.mark.parametrize("isa", core.kernels()[:1], indirect=True)
"""What does not depend on the instruction set."""

MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's value, for Python before 3.13
BIG = Recipe(b=1, g=2, repeats=2, q=150, k=600, d=40, dv=24)
DECODE = Recipe(b=2, g=2, repeats=3, q=2, k=3000, d=40, dv=24)


def spans_of(*rows: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)[None, None]


# ------------------------------------------------------------------ masks and numbers


@pytest.mark.parametrize("q", [2, 6])
def test_long_masked_runs(q: int) -> None:
    call, out_grad, _ = dataclasses.replace(BIG, q=q, k=2000).build()
    call.spans = spans_of(*[[(i, i + 1), (1990 + i, 1992 + i)] for i in range(q)])
    result = call.forward()
    assert result is not None
    answers = {"out": result[0], "lse": result[1][0], **call.backward(*result, out_grad)}
    compare(answers, reference(call, out_grad, None), torch.float32)


@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_a_row_that_sees_nothing_is_zero(recipe: Recipe) -> None:
    call, out_grad, _ = recipe.build()
    rows = [[(0, 0 if i % 2 else 9)] for i in range(recipe.q)]
    call.spans = spans_of(*rows)
    result = call.forward()
    assert result is not None
    out, numbers = result
    assert not out[:, :, 1::2].any()
    assert (numbers[0][:, :, 1::2] == -torch.inf).all()
    assert bool(numbers[0][:, :, ::2].isfinite().all())
    grads = call.backward(out, numbers, out_grad)
    assert not grads["q"][:, :, 1::2].any()
    assert not grads["k"][:, :, 9:].any()
    assert all(bool(g.isfinite().all()) for g in grads.values())


@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_numbers_that_are_not_finite_are_reported(recipe: Recipe, number: float, where: str) -> None:
    call, _, _ = recipe.build()
    getattr(call, where)[0, 1, 1, 3] = number
    assert call.forward() is None


@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_a_nan_behind_a_mask_does_not_hide_minus_infinity(recipe: Recipe) -> None:
    call, _, _ = recipe.build()
    call.q.abs_()
    call.k[:, :, 2, 0] = -torch.inf  # every query sees it: its weight would be 0, its product is not finite
    call.k[:, :, 5, 0] = torch.nan  # no query sees it
    call.spans = spans_of(*[[(0, 5), (6, recipe.k)]] * recipe.q)
    assert call.forward() is None


@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
@pytest.mark.parametrize("where", ["q", "k"])
def test_rows_that_see_a_non_finite_number_are_nan_and_no_others(recipe: Recipe, where: str) -> None:
    call, _, _ = dataclasses.replace(recipe, mask="spans", seed=4).build()
    b, h, g, q, k, _, _ = call.sizes
    bad_q, bad_k = torch.zeros(b, h, q, dtype=torch.uint8), torch.zeros(b, g, k, dtype=torch.uint8)
    result = call.forward()
    assert result is not None
    if where == "q":
        bad_q[0, 1, -1] = 1
        call.q[0, 1, -1] = 0
    else:
        bad_k[0, 1, k // 2] = 1
        call.k[0, 1, k // 2] = 0
    call.non_finite = bad_q, bad_k
    sees = call.allowed()
    non_finite = (sees & (bad_k == 1).repeat_interleave(h // g, 1)[:, :, None]).any(-1)
    non_finite = non_finite | (sees.any(-1) & (bad_q == 1))
    assert bool(non_finite.any())
    assert not bool(non_finite.all())
    answer = call.forward()
    assert answer is not None
    assert torch.equal(answer[0].isnan(), non_finite[..., None].expand_as(answer[0]))
    assert torch.equal(answer[1][0].isnan(), non_finite)
    assert torch.equal(answer[0][~non_finite], result[0][~non_finite])


@pytest.mark.parametrize("scale", [-0.3, 0.0])
@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_a_scale_that_is_not_positive(recipe: Recipe, scale: float, isa: str) -> None:
    check(dataclasses.replace(recipe, scale=scale, mask="causal"), [isa])


# ------------------------------------------------------------------ places in memory


@pytest.mark.parametrize("layout", ["every other", "one head", "one row", "turned"])
@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strides(recipe: Recipe, layout: str, dtype: torch.dtype, isa: str) -> None:
    check(dataclasses.replace(recipe, layouts=(layout,) * 3, dtype=dtype), [isa])


@pytest.mark.parametrize("row", [1024, 1025], ids=["rows 4 KiB apart", "and a number more"])
@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_rows_a_page_apart(recipe: Recipe, row: int) -> None:
    call, out_grad, _ = recipe.build()
    for name in "qkv":
        t: Tensor = getattr(call, name)
        wide = torch.full((*t.shape[:3], row), torch.nan)
        wide[..., : t.shape[3]] = t
        setattr(call, name, wide[..., : t.shape[3]])
    result = call.forward()
    assert result is not None
    answers = {"out": result[0], "lse": result[1][0], **call.backward(*result, out_grad)}
    compare(answers, reference(call, out_grad, None), torch.float32)


def far_apart(t: Tensor, dim: int, stride: int) -> Tensor:
    """The same tensor, with more than 2³¹ elements from one index of a dimension to the next."""
    sizes, strides = list(t.shape), [0] * 4
    near = 1
    for i in (3, 2, 1, 0):
        if i != dim:
            strides[i], near = near, near * sizes[i]
    strides[dim] = stride
    count = (sizes[dim] - 1) * stride + near
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    try:
        memory = mmap.mmap(-1, count * t.element_size(), flags)
    except OSError as error:
        pytest.skip(f"no {count * t.element_size() >> 30} GiB of addresses here: {error}")
    whole = torch.frombuffer(memory, dtype=t.dtype, count=count)
    return whole.as_strided(sizes, strides).copy_(t)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_offsets_past_2_to_the_31(recipe: Recipe, dim: int) -> None:
    recipe = dataclasses.replace(recipe, dtype=torch.bfloat16, b=1, q=min(recipe.q, 70), k=300, bias=(True,) * 4)
    call, out_grad, _ = recipe.build()
    step = 2**31 // (299 if dim == 2 else 1) + 4097
    assert call.bias is not None
    call.q = far_apart(call.q, 1, 2**31 + 1)
    call.k, call.v = far_apart(call.k, dim, step), far_apart(call.v, dim, step)
    call.bias = far_apart(call.bias, 1, 2**31 + 5)
    result = call.forward()
    assert result is not None
    answers = {"out": result[0], "lse": result[1][0], **call.backward(*result, out_grad)}
    compare(answers, reference(call, out_grad, None), torch.bfloat16)


# ------------------------------------------------------------------ the same each time

SAME = [
    dataclasses.replace(
        BIG,
        mask="spans",
        table="by head",
        bias=(True, False, True, True),
        softcap=3.0,
        dropout=0.1,
        sink=True,
        lse_grad=True,
    ),
    dataclasses.replace(BIG, dtype=torch.bfloat16, mask="causal", k=700),
    dataclasses.replace(BIG, bias=(False, True, True, True), b=2, table="by head", mask="tiles"),
    dataclasses.replace(BIG, b=1, g=1, repeats=1, q=64, k=4096, mask="none", table="shared"),
    dataclasses.replace(DECODE, table="by head", mask="spans"),
]


@pytest.mark.parametrize("recipe", SAME, ids=["all", "bfloat16", "bias", "one head", "decode"])
def test_the_same_bits_from_run_to_run_and_for_any_number_of_threads(recipe: Recipe) -> None:
    first = run(recipe, 1)
    for threads in (1, 2, 3, 5, 2, 3):
        for name, answer in run(recipe, threads).items():
            assert torch.equal(answer, first[name]), f"{name} differs on {threads} threads"


# ------------------------------------------------------------------ what is left as it was, or refused


def flushes() -> bool:
    """Whether this thread's processor takes tiny numbers for 0."""
    tiny = np.array([1e-39], dtype=np.float32)
    return bool((tiny * np.float32(0.5))[0] == 0)


@pytest.mark.parametrize("recipe", [BIG, DECODE], ids=["blocks", "decode"])
def test_flush_to_zero_is_left_as_it_was(recipe: Recipe) -> None:
    assert not flushes()
    run(recipe, 1)
    assert not flushes()
    torch.set_flush_denormal(True)
    try:
        if flushes():
            run(recipe, 1)
            assert flushes()
    finally:
        torch.set_flush_denormal(False)


@once
@pytest.mark.parametrize(
    "sizes", [(0, 1, 1, 1, 1, 1, 1), (1, 3, 2, 1, 1, 1, 1), (1, 1, 1, 1, 1, 257, 1), (1, 1, 1, 1, 2**31, 1, 1)]
)
def test_sizes_that_the_kernels_do_not_take(sizes: tuple[int, int, int, int, int, int, int], isa: str) -> None:
    none = 0, 0, 0, 0, 0
    with pytest.raises(ValueError, match="sizes that the kernels do not take"):
        core.Call(0, sizes, none, none, none, 1.0)
