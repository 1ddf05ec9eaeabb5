"""Values whose tensors belong to a module, and are trained, moved and saved with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Generic, TypeVar

from torch import Tensor, nn

from regard.spec.values import Value

AnyValue = TypeVar("AnyValue", bound=Value)


class ModuleParameters(nn.Module, Generic[AnyValue]):
    """A value whose tensors belong to a module: parameters stay parameters, the rest become buffers.

    Calling the module returns the value with its present tensors, so that moving, saving, training and
    `torch.func.functional_call` work for any value, under the names of the value's fields.

    >>> from regard.spec.biases import Kerple
    >>> parameters = ModuleParameters(Kerple.learned(heads=4))
    >>> sorted(parameters.state_dict())
    ['a', 'c']
    """

    def __init__(self, value: AnyValue) -> None:
        super().__init__()
        self._names = tuple(_tensor_names(value))
        tensors = value.tensors()
        for name, tensor in zip(self._names, tensors, strict=True):
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self._template = value.with_tensors([tensor.detach() for tensor in tensors])

    def forward(self) -> AnyValue:
        """The value with this module's present tensors."""
        return self._template.with_tensors([getattr(self, name) for name in self._names])

    def extra_repr(self) -> str:
        return repr(self._template) if not self._names else type(self._template).__name__


def _tensor_names(value: Value, prefix: str = "") -> Iterator[str]:
    for part in fields(value):
        content = getattr(value, part.name)
        if isinstance(content, Tensor):
            yield prefix + part.name
        elif isinstance(content, Value):
            yield from _tensor_names(content, f"{prefix}{part.name}_")
