"""The cases of `regard bench`, the runs that include them, and the methods that run them.

A new case is a row of `CASES`; a new method (a backend, another library) is an entry of `METHODS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from regard_benchmarks.cases import (
    ALIBI,
    ASCENDING,
    BOTH,
    CAUSAL,
    DENSE,
    DROPOUT,
    FORWARD,
    FOUR,
    FULL,
    PENALTY,
    RELATIVE,
    SINKS,
    SIX,
    SOFTCAP,
    WIDE,
    Case,
)
from regard_benchmarks.decode import DECODE_METHODS
from regard_benchmarks.flex import FLEX
from regard_benchmarks.methods import (
    CHUNKED,
    EAGER,
    NATIVE,
    NATIVE_PLAIN,
    NATIVE_UNOBSERVED,
    SDPA,
    SDPA_PLAIN,
    SDPA_UNOBSERVED,
    Method,
    methods_by_isa,
)
from regard_benchmarks.weights_rectangle import ROWS, WEIGHTS

TITLES = {
    "plain": "Plain attention",
    "kinds": "Masks, soft-cap and ALiBi",
    "features": "Overhead of a feature",
    "bias": "Memory of a learned dense bias",
    "statistics": "Overhead of statistics",
    "square": "A square of 256×256 weights",
    "decode": "Decoding: one query against a cache",
    "window": "A window over long sequences",
    "overhead": "Overhead of a call",
    "isa": "Instruction sets, each forced",
}
"""The sections, in the order in which they are run and printed."""

METHODS: dict[str, tuple[Method, ...]] = {
    "plain": (SDPA, EAGER, FLEX, NATIVE, CHUNKED),
    "kinds": (SDPA, EAGER, FLEX, NATIVE, CHUNKED),
    "features": (NATIVE_PLAIN, NATIVE, SDPA_PLAIN, SDPA, CHUNKED),
    "bias": (SDPA, EAGER, NATIVE, CHUNKED),
    "statistics": (SDPA_UNOBSERVED, EAGER, NATIVE_UNOBSERVED, NATIVE, CHUNKED),
    "square": (WEIGHTS, ROWS),
    "decode": DECODE_METHODS,
    "window": (NATIVE, FLEX, CHUNKED),
    "overhead": (SDPA, NATIVE, CHUNKED),
}
"""The methods of each section but "isa", whose methods depend on the machine."""

GOAL_SHAPES = (
    (1, 12, 128, 64),
    (8, 12, 128, 64),
    (1, 12, 512, 64),
    (1, 8, 2048, 64),
    (1, 8, 4096, 128),
    (1, 4, 8192, 64),
)
_SMALL, _MIDDLE = GOAL_SHAPES[2], GOAL_SHAPES[3]
_FEATURES = (1, 8, 4096, 64)
_F32, _BF16 = torch.float32, torch.bfloat16

_QUICK, _DEFAULT = ("quick", "default", "goals"), ("default", "goals")
_GOALS, _WEIGHED = ("goals",), ("default", "goals", "memory")

_PLAIN_QUICK = {
    (_SMALL, FULL, _F32, FORWARD),
    (_SMALL, CAUSAL, _F32, FORWARD),
    (_SMALL, CAUSAL, _F32, BOTH),
    (_SMALL, FULL, _BF16, FORWARD),
    (_MIDDLE, CAUSAL, _F32, FORWARD),
}
_WITH_EAGER = {*_PLAIN_QUICK, (_SMALL, FULL, _F32, BOTH), (_MIDDLE, CAUSAL, _F32, BOTH)}
_WITH_FLEX = {(_MIDDLE, CAUSAL, _F32, FORWARD), (_MIDDLE, FULL, _BF16, FORWARD)}


def _plain(shape: tuple[int, int, int, int], mask: str, dtype: torch.dtype, passes: str) -> Case:
    key = (shape, mask, dtype, passes)
    sets = _QUICK if key in _PLAIN_QUICK else _DEFAULT if shape in (_SMALL, _MIDDLE) else _GOALS
    eager = (EAGER.name,) if key in _WITH_EAGER else ()
    flex = (FLEX.name,) if key in _WITH_FLEX else ()
    return Case("plain", shape, mask, dtype, passes, sets=sets, also=eager + flex)


PLAIN = tuple(
    _plain(shape, mask, dtype, passes)
    for passes in (FORWARD, BOTH)
    for dtype in (_F32, _BF16)
    for shape in GOAL_SHAPES
    for mask in (FULL, CAUSAL)
)

KINDS = (
    Case("kinds", _MIDDLE, "window 256"),
    Case("kinds", _MIDDLE, "documents 256", sets=("default",)),
    Case("kinds", _MIDDLE, twist=SOFTCAP),
    Case("kinds", _MIDDLE, twist=ALIBI, sets=("default",)),
)


def _features(dtype: torch.dtype, mask: str, twist: str, sets: tuple[str, ...]) -> Case:
    return Case("features", _FEATURES, mask, dtype, BOTH, twist, sets=sets)


FEATURES = tuple(
    _features(dtype, mask, twist, sets if dtype == _F32 else _GOALS)
    for dtype in (_F32, _BF16)
    for mask, twist, sets in (
        (FULL, DROPOUT, _WEIGHED),
        (FULL, RELATIVE, (*_GOALS, "memory")),
        (FULL, SOFTCAP, (*_GOALS, "memory")),
        (FULL, SINKS, _WEIGHED),
        (FULL, WIDE, (*_GOALS, "memory")),
        ("documents 512", "", (*_GOALS, "memory")),
    )
)

BIAS = (Case("bias", _MIDDLE, passes=BOTH, twist=DENSE, sets=_WEIGHED),)

_SEEN, _LONGER, _FAR = (1, 2, 4096, 64), (1, 1, 8192, 64), (1, 1, 131072, 64)


def _statistics(seen: str, shape: tuple[int, int, int, int], twist: str = "") -> Iterator[Case]:
    for dtype, mask in itertools.product((_F32, _BF16), (FULL, CAUSAL)):
        usual = (seen, shape, twist, mask) == (FOUR, _SEEN, "", CAUSAL)
        sets = _DEFAULT if usual else _GOALS
        yield Case("statistics", shape, mask, dtype, FORWARD, twist, seen, sets=sets)


STATISTICS = (
    Case("statistics", _SMALL, CAUSAL, seen=FOUR, sets=("quick", "default"), also=(EAGER.name,)),
    *(case for shape in (_SEEN, (1, 2, 4096, 128), _LONGER) for case in _statistics(FOUR, shape)),
    *_statistics(FOUR, _SEEN, ASCENDING),
    *(case for case in _statistics(SIX, _SEEN) if case.dtype == _BF16),
    Case("statistics", _LONGER, FULL, seen=SIX, sets=(*_GOALS, "memory"), also=(EAGER.name,)),
    Case("statistics", _LONGER, CAUSAL, seen=SIX, sets=_WEIGHED, also=(EAGER.name,)),
    Case("statistics", _FAR, CAUSAL, seen=SIX, sets=(*_GOALS, "memory", "alone")),
    Case("statistics", _SEEN, CAUSAL, passes=BOTH, seen=PENALTY, sets=_DEFAULT),
    Case("statistics", _SEEN, CAUSAL, _BF16, BOTH, seen=PENALTY, sets=_GOALS),
)

SQUARE = (Case("square", _FAR, CAUSAL, sets=_DEFAULT),)

DECODE = tuple(
    Case("decode", (1, 32, 1, 128), dtype=dtype, keys=(1, 8, n, 128), sets=sets)
    for dtype in (_F32, _BF16)
    for n, sets in ((8192, _QUICK), (16384, _DEFAULT), (32768, _GOALS))
)

WINDOWS = tuple(
    Case("window", (1, 2, n, 64), "window 512", passes=passes, sets=sets)
    for passes in (FORWARD, BOTH)
    for n, sets in ((32768, _DEFAULT), (65536, _DEFAULT), (131072, _GOALS))
)

OVERHEAD = (Case("overhead", (1, 1, 16, 64), sets=_QUICK),)

ISAS = tuple(
    Case("isa", _MIDDLE, mask, dtype, passes, sets=sets)
    for mask, dtype, passes, sets in (
        (FULL, _F32, FORWARD, _GOALS),
        (CAUSAL, _F32, FORWARD, _DEFAULT),
        (FULL, _F32, BOTH, _GOALS),
        (CAUSAL, _F32, BOTH, _GOALS),
        (FULL, _BF16, FORWARD, _GOALS),
    )
)

CASES = (*PLAIN, *KINDS, *FEATURES, *BIAS, *STATISTICS, *SQUARE, *DECODE, *WINDOWS, *OVERHEAD, *ISAS)

SLOW_BF16 = (
    "was left out: its bfloat16 backward pass takes many seconds a call on processors without bfloat16 "
    "instructions, and the native cost of a feature does not depend on it: --all runs it"
)


def methods_of(case: Case) -> tuple[Method, ...]:
    """The methods of a case's section, including those that cannot run it.

    >>> [method.name for method in methods_of(OVERHEAD[0])]
    ['SDPA', 'regard native', 'regard chunked']
    """
    return methods_by_isa() if case.section == "isa" else METHODS[case.section]


def reason_to_skip(case: Case, method: Method, run: str, native: str | None) -> str | None:
    """Why a run skips a method that could run, or None.

    Args:
        case: The case.
        method: One of its methods.
        run: "quick", "default", "goals" or "all".
        native: Why the native backend cannot run the case, or None: where it cannot, chunked is measured instead.

    >>> reason_to_skip(PLAIN[0], CHUNKED, "default", native=None)
    'was left out to save time: --all runs it'
    """
    if run == "goals" and _is_reference(case, method) and case.dtype == _BF16 and case.backward:
        return SLOW_BF16
    slow = method.name in (EAGER.name, FLEX.name, CHUNKED.name, "native emulated")
    slow = slow or (run == "goals" and method.name == "native portable")  # no goal covers it
    replaces_native = method.name == CHUNKED.name and native is not None and run != "goals"
    slow = slow or (case.alone and method is not NATIVE)
    included = method.name in case.also and (
        run == "default" or (run == "quick" and method is not FLEX) or (run == "goals" and case.section == "statistics")
    )
    if run == "all" or not slow or replaces_native or included:
        return None
    return "was left out to save time: --all runs it"


def one_turn_is_enough(case: Case, method: Method, run: str) -> bool:
    """Whether a single turn of a method is enough: no goal uses its time, or it is far from the others'.

    >>> [method.name for method in METHODS["features"] if one_turn_is_enough(FEATURES[0], method, "goals")]
    ['SDPA, plain', 'SDPA']
    """
    return run != "all" and (_is_reference(case, method) or (case.seen == SIX and method is EAGER))


def measures_memory(case: Case, method: Method, run: str) -> bool:
    """Whether a method's memory is worth a process of its own, which takes seconds to start.

    >>> [method.name for method in METHODS["features"] if measures_memory(FEATURES[0], method, "goals")]
    ['regard native']
    """
    slow = case.section in ("features", "statistics")
    return run == "all" or not slow or method.name in (NATIVE.name, EAGER.name)


def _is_reference(case: Case, method: Method) -> bool:
    """Whether this is SDPA in a case about the native cost of a feature or of more than four statistics."""
    relative_to_native = case.section == "features" or case.seen in (SIX, PENALTY)
    return relative_to_native and method.name in (SDPA.name, SDPA_PLAIN.name)


def select_cases(cases: tuple[Case, ...], run: str, only: str = "") -> list[Case]:
    """The cases of a run whose name contains every word of `only`.

    >>> [case.short for case in select_cases(CASES, "all", "SINKS bfloat16")]
    ['1×8×4096×64 full, sinks']
    """
    words = only.lower().split()
    return [
        case
        for case in cases
        if (run == "all" or run in case.sets) and all(word in case.name.lower() for word in words)
    ]
