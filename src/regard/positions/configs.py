"""Rotary positions from a transformers config: a dict as in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from regard.errors import OptionError
from regard.positions.axes import Axes, Sections
from regard.positions.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN


class RopeConfig(NamedTuple):
    """The rotary positions of a config."""

    base: float
    share: float
    """The share of the components of a head that are rotated."""
    scaling: Scaling | None
    axes: Axes | None


_COMMON_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "mrope_section",
    "mrope_interleaved",
}
_KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"short_factor", "long_factor", "factor", "attention_factor"},
    "proportional": {"factor"},
}
_OLD_NAMES = {"su": "longrope", "mrope": "default"}
"""Names of earlier configs."""


def parse_rope_config(rope: Mapping[str, Any], trained: int | None, base: float, share: float) -> RopeConfig:
    """The settings of the dict; `trained`, `base` and `share` are settings of the config outside of it."""
    if rope and all(isinstance(x, Mapping) or x is None for x in rope.values()):
        raise OptionError(
            "rope",
            f"a dict for each of {', '.join(rope)}",
            "the dict of one kind of layer",
            f"Write rope[{next(iter(rope))!r}], and so for each kind.",
        )
    settings = {key: x for key, x in rope.items() if x is not None}
    kind = settings.get("rope_type", settings.get("type", "default"))
    kind = _OLD_NAMES.get(kind, kind)
    if kind == "axial":
        raise OptionError(
            "rope['rope_type']",
            "'axial'",
            f"one of {', '.join(_KEYS)}",
            "Write Rotary(base=…, axes=Axial(2)) for Qwen2-VL's vision, "
            "Rotary(base=…, axes=Alternating(2)) for Pixtral.",
        )
    if kind not in _KEYS:
        raise OptionError(
            "rope['rope_type']",
            repr(kind),
            f"one of {', '.join(_KEYS)}",
            "Write a Scaling of your own: Rotary(scaling=…).",
        )
    unknown = set(settings) - _COMMON_KEYS - _KEYS[kind]
    if unknown:
        raise OptionError(
            "rope",
            f"{', '.join(sorted(unknown))} for {kind!r}",
            ", ".join(sorted(_COMMON_KEYS | _KEYS[kind])),
            "Remove keys that should have no effect here.",
        )
    base = float(settings.get("rope_theta", base))
    share = float(settings.get("partial_rotary_factor", share))
    scaling = _scaling(kind, settings, trained, share)
    return RopeConfig(base, 1.0 if kind == "proportional" else share, scaling, _axes(settings))


def _scaling(kind: str, settings: dict[str, Any], trained: int | None, share: float) -> Scaling | None:
    def needed(key: str) -> Any:
        if key not in settings:
            raise OptionError(
                "rope", f"no {key} for {kind!r}", f"a dict with {key}", "Give rope_parameters (or rope_scaling) whole."
            )
        return settings[key]

    def of_config() -> int:
        if trained is None:
            raise OptionError(
                "from_config(trained=…)",
                "None",
                f"a length, for this {kind!r}",
                "Give the config's max_position_embeddings.",
            )
        return trained

    def original() -> int:
        return int(settings.get("original_max_position_embeddings") or of_config())

    def factor() -> float:
        return float(settings["factor"]) if "factor" in settings else of_config() / original()

    match kind:
        case "linear":
            return Linear(float(needed("factor")))
        case "dynamic":
            return DynamicNTK(float(needed("factor")), of_config())
        case "yarn":
            attention = settings.get("attention_factor")
            mscale = (settings.get("mscale", 0.0), settings.get("mscale_all_dim", 0.0))
            return YaRN(
                factor(),
                original(),
                fast=float(settings.get("beta_fast") or 32.0),
                slow=float(settings.get("beta_slow") or 1.0),
                ends="whole" if settings.get("truncate", True) else "exact",
                attention=attention,
                mscale=mscale if attention is None and all(mscale) else None,
            )
        case "llama3":
            low, high = float(needed("low_freq_factor")), float(needed("high_freq_factor"))
            return Llama3(float(needed("factor")), original(), low, high)
        case "longrope":
            short, long = tuple(needed("short_factor")), tuple(needed("long_factor"))
            return LongRoPE(short, long, original(), factor(), settings.get("attention_factor"))
        case "proportional":
            return Proportional(share, float(settings.get("factor", 1.0)))
        case _:
            return None


def _axes(settings: dict[str, Any]) -> Axes | None:
    if "mrope_section" not in settings:
        return None
    order = "woven" if settings.get("mrope_interleaved") else "blocks"
    return Sections(tuple(settings["mrope_section"]), order)
