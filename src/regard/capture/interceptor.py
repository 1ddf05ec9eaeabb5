"""Intercepting the attention calls of a model while it runs: `watch` and `record` stand on it."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from regard.attend import AttentionHandler, Seen, attention_handler, observe_spec
from regard.integrations.compat.torch_internals import dynamo_imported
from regard.integrations.torch_functions import torch_functions
from regard.spec.attention_spec import AttentionSpec
from regard.spec.observers import Observer


class TextPosition(NamedTuple):
    """Where the queries and keys of a call stand in the text."""

    query: int
    """The position of the first query."""
    key: int
    """That of the first key: above 0 where a cache has dropped the oldest."""


@contextmanager
def intercept_attention(handler: AttentionHandler) -> Iterator[None]:
    """In this context, have a handler carry out each call of `attention`."""
    token = attention_handler.set(handler)
    try:
        yield
    finally:
        attention_handler.reset(token)


@contextmanager
def use_regard(model: nn.Module) -> Iterator[torch_functions | None]:
    """Have a model attend by regard, and by what it did before when the context ends.

    A model of transformers is switched; in any other, PyTorch's own attention functions are intercepted.
    """
    if hasattr(model, "set_attn_implementation"):
        from regard import huggingface

        with huggingface.attending(cast("Any", model)):
            yield None
    else:
        with torch_functions() as calls:
            yield calls


@dataclass(frozen=True, eq=False)
class InterceptedCall:
    """A call of `attention` by a layer of a model."""

    layer: str
    """The name of the module that calls."""
    q: Tensor
    k: Tensor
    v: Tensor
    spec: AttentionSpec
    backend: str
    position: TextPosition | None
    """Where its queries and keys stand in the text, where the caller knows."""

    def observe(self, *observers: Observer[Any], spec: AttentionSpec | None = None) -> Seen:
        """The call, observed; with another specification in its place, where one is given."""
        return observe_spec(self.q, self.k, self.v, observers, self.spec if spec is None else spec, self.backend)


class Interceptor:
    """Computes calls of `attention` in its place, and knows from hooks which module they come from."""

    def __init__(self, layers: str | int | Sequence[str | int] | None = None) -> None:
        single = isinstance(layers, str | int)
        self.layers = None if layers is None else (layers,) if single else tuple(layers)
        self._modules: list[str] = []
        self._numbers: dict[str, int] = {}

    def handle(self, call: InterceptedCall) -> Tensor:
        """The output of a call by one of the layers."""
        raise NotImplementedError

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Intercept the calls of this model's modules alone in this context; compiled ones run as written."""
        hooks: list[Any] = []
        try:
            for name, module in model.named_modules():
                enter = functools.partial(self._enter, name)
                hooks.append(module.register_forward_pre_hook(enter, prepend=True))
                hooks.append(module.register_forward_hook(self._leave, always_call=True))
            with intercept_attention(self._attend), _uncompiled():
                yield
        finally:
            for hook in hooks:
                hook.remove()
            self._modules.clear()

    def includes(self, name: str, number: int) -> bool:
        """Whether a layer of this name, the `number`-th to be called, is one of the layers."""
        return self.layers is None or any(_matches(layer, name, number) for layer in self.layers)

    def _enter(self, name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        del module, arguments
        self._modules.append(name)

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], out: Any) -> None:
        del module, arguments, out
        if self._modules:
            self._modules.pop()

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: AttentionSpec,
        *,
        backend: str = "auto",
        position: tuple[int, int] | None = None,
    ) -> Tensor:
        if self._modules:  # else it is another model's
            name = self._modules[-1]
            number = self._numbers.setdefault(name, len(self._numbers))
            if self.includes(name, number):
                where = None if position is None else TextPosition(*position)
                return self.handle(InterceptedCall(name, q, k, v, spec, backend, where))
        return observe_spec(q, k, v, (), spec, backend).out


def _matches(layer: str | int, name: str, number: int) -> bool:
    return layer == number if isinstance(layer, int) else fnmatch.fnmatchcase(name, layer)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled code runs as it was written, so that its calls are seen."""
    if not dynamo_imported():  # nothing is compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
