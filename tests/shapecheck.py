"""The run-time checker of signatures that pytest puts on every function of `regard`.

It is beartype, which knows `Self` only where it decorates the whole class, while jaxtyping's import
hook decorates the methods one by one. So `Self` is left to pyright, and all else is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float is asked


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its arguments and result checked at each call."""
    try:
        return checked(function)
    except BeartypeDecorHintPep673Exception:
        hints = function.__annotations__
        function.__annotations__ = {k: v for k, v in hints.items() if "Self" not in str(v)}
        return checked(function)
