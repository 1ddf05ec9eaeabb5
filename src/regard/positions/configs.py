"""What a transformers config says of rotary positions: a plain dict, as it stands in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from regard.errors import OptionError
from regard.positions.axes import Axes, Sections
from regard.positions.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN


class Read(NamedTuple):
    """What a config says."""

    base: float
    share: float
    """Of the components of a head, those that are turned."""
    scaling: Scaling | None
    axes: Axes | None


_ANY = {
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
_OLD = {"su": "longrope", "mrope": "default"}
"""Names of earlier configs."""


def read(rope: Mapping[str, Any], trained: int | None, base: float, share: float) -> Read:
    """What the dict says; `trained`, `base` and `share` are what the config says beside it."""
    if rope and all(isinstance(x, Mapping) or x is None for x in rope.values()):
        raise OptionError(
            "rope",
            f"a dict for each of {', '.join(rope)}",
            "the dict of one kind of layer",
            f"Write rope[{next(iter(rope))!r}], and so for each kind.",
        )
    said = {key: x for key, x in rope.items() if x is not None}
    kind = said.get("rope_type", said.get("type", "default"))
    kind = _OLD.get(kind, kind)
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
    unknown = set(said) - _ANY - _KEYS[kind]
    if unknown:
        raise OptionError(
            "rope",
            f"{', '.join(sorted(unknown))} for {kind!r}",
            ", ".join(sorted(_ANY | _KEYS[kind])),
            "Drop what should mean nothing here.",
        )
    base = float(said.get("rope_theta", base))
    share = float(said.get("partial_rotary_factor", share))
    scaling = _scaling(kind, said, trained, share)
    return Read(base, 1.0 if kind == "proportional" else share, scaling, _axes(said))


def _scaling(kind: str, said: dict[str, Any], trained: int | None, share: float) -> Scaling | None:
    def needed(key: str) -> Any:
        if key not in said:
            raise OptionError(
                "rope", f"no {key} for {kind!r}", f"a dict with {key}", "Give rope_parameters (or rope_scaling) whole."
            )
        return said[key]

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
        return int(said.get("original_max_position_embeddings") or of_config())

    def factor() -> float:
        return float(said["factor"]) if "factor" in said else of_config() / original()

    match kind:
        case "linear":
            return Linear(float(needed("factor")))
        case "dynamic":
            return DynamicNTK(float(needed("factor")), of_config())
        case "yarn":
            attention = said.get("attention_factor")
            mscale = (said.get("mscale", 0.0), said.get("mscale_all_dim", 0.0))
            return YaRN(
                factor(),
                original(),
                fast=float(said.get("beta_fast") or 32.0),
                slow=float(said.get("beta_slow") or 1.0),
                ends="whole" if said.get("truncate", True) else "exact",
                attention=attention,
                mscale=mscale if attention is None and all(mscale) else None,
            )
        case "llama3":
            low, high = float(needed("low_freq_factor")), float(needed("high_freq_factor"))
            return Llama3(float(needed("factor")), original(), low, high)
        case "longrope":
            short, long = tuple(needed("short_factor")), tuple(needed("long_factor"))
            return LongRoPE(short, long, original(), factor(), said.get("attention_factor"))
        case "proportional":
            return Proportional(share, float(said.get("factor", 1.0)))
        case _:
            return None


def _axes(said: dict[str, Any]) -> Axes | None:
    if "mrope_section" not in said:
        return None
    order = "woven" if said.get("mrope_interleaved") else "blocks"
    return Sections(tuple(said["mrope_section"]), order)
