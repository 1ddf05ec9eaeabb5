"""What of transformers has no public name. Importing it imports transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, masking_utils
from transformers.utils import output_capturing


def attention_implementations(model: PreTrainedModel) -> list[tuple[Any, str | None]]:
    """The configuration of a model and of each model in it, with the name of its attention."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    return [(config, config._attn_implementation) for config in configs.values()]


def restore_attention_implementations(implementations: list[tuple[Any, str | None]]) -> None:
    """Set what `attention_implementations` returned, without the checks of `set_attn_implementation`."""
    for config, name in implementations:
        config._attn_implementation_internal = name


def attentions_collected() -> bool:
    """Whether the model's caller asked for its attentions; not every model hands that on to its layers."""
    collector: Any = output_capturing._active_collector
    return any("attentions" in name for name in collector.get() or ())


def mask_function_closure(function: Any) -> tuple[str, dict[str, Any]]:
    """The qualified name of a function inside a function of `masking_utils`, and its closure; "" for any other."""
    if getattr(function, "__module__", "") != masking_utils.__name__:
        return "", {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return function.__qualname__, {name: cell.cell_contents for name, cell in cells}
