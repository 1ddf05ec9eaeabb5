"""No tensor of n × n: every tensor that an operation makes is seen, and the greatest remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import regard
from regard import ALiBi, Causal, Entropy, LogSumExp, MeanDistance, Pooled, Received, TopK, Window, attention

N = 16_384
MOST = 24 << 20  # bytes of any one tensor; n² scores of one head would take 1 GiB

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class Greatest(TorchDispatchMode):
    """Remembers the bytes of the greatest storage that any operation returned."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


def qkv(n: int, heads: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, n, 4, generator=generator, requires_grad=True) for _ in range(3)]


def greatest(function: Callable[..., Tensor], n: int = N) -> int:
    """Of a forward and a backward pass."""
    inputs = qkv(n)
    with Greatest() as seen:
        function(*inputs).sum().backward()
    assert all(tensor.grad is not None for tensor in inputs)
    return seen.bytes


def observed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    asked = (TopK(2), Entropy(), Received(), MeanDistance(), Pooled(64, 64), LogSumExp())
    seen = regard.observe(q, k, v, *asked, mask=Causal() & Window(1500))
    return seen.out + seen[Entropy()][..., None] + seen[LogSumExp()][..., None]


@pytest.mark.parametrize(
    "function",
    [
        lambda q, k, v: attention(q, k, v, mask=Causal()),
        lambda q, k, v: attention(q, k, v, bias=ALiBi(1), mask=Window(300), dropout=0.1),
        observed,
    ],
    ids=["causal", "window, bias and dropout", "observers"],
)
def test_no_tensor_is_n_by_n(function: Callable[..., Tensor]) -> None:
    assert greatest(function) <= MOST


def test_the_textbook_formula_would_be_caught() -> None:
    def textbook(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT, -1) @ v

    n = 4096
    assert greatest(textbook, n) >= n * n * 4
    assert greatest(lambda q, k, v: attention(q, k, v, backend="reference"), n) >= n * n * 8
    assert greatest(lambda q, k, v: attention(q, k, v), n) < n * n * 4 // 4


def test_what_is_kept_for_the_backward_pass_is_what_was_given() -> None:
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    q, k, v = qkv(2048, heads=2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        regard.observe(q, k, v, Entropy(), mask=Causal())
    given = sum(t.numel() * t.element_size() for t in (q, k, v))
    assert kept <= 2 * given
