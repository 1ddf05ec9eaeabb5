"""Which cases `regard bench` measures, in which runs, and through which arms.

A case more is a row more in `CASES`; an arm more (a backend, another library) stands in `ARMS`.
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
from regard_benchmarks.decode import DECODE_ARMS
from regard_benchmarks.flex import FLEX
from regard_benchmarks.implementations import (
    CHUNKED,
    EAGER,
    NATIVE,
    NATIVE_BLIND,
    NATIVE_PLAIN,
    SDPA,
    SDPA_BLIND,
    SDPA_PLAIN,
    Arm,
    forced_arms,
)
from regard_benchmarks.weights_rectangle import ROWS, WEIGHTS

TITLES = {
    "plain": "Plain attention",
    "kinds": "Masks, soft-cap and ALiBi",
    "features": "What a feature costs",
    "bias": "Memory of a learned dense bias",
    "statistics": "What seeing costs",
    "square": "A square of 256×256 weights",
    "decode": "Decoding: one query against a cache",
    "window": "A window over long sequences",
    "overhead": "What a call costs by itself",
    "isa": "Instruction sets, each forced",
}
"""The sections, in the order in which they are run and printed."""

ARMS: dict[str, tuple[Arm, ...]] = {
    "plain": (SDPA, EAGER, FLEX, NATIVE, CHUNKED),
    "kinds": (SDPA, EAGER, FLEX, NATIVE, CHUNKED),
    "features": (NATIVE_PLAIN, NATIVE, SDPA_PLAIN, SDPA, CHUNKED),
    "bias": (SDPA, EAGER, NATIVE, CHUNKED),
    "statistics": (SDPA_BLIND, EAGER, NATIVE_BLIND, NATIVE, CHUNKED),
    "square": (WEIGHTS, ROWS),
    "decode": DECODE_ARMS,
    "window": (NATIVE, FLEX, CHUNKED),
    "overhead": (SDPA, NATIVE, CHUNKED),
}
"""The arms of each section but "isa", whose arms depend on the machine."""

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
    "instructions, and what a feature costs natively is not measured by it: --all runs it"
)


def arms_of(case: Case) -> tuple[Arm, ...]:
    """The arms of a case's section, those that cannot run it too.

    >>> [arm.name for arm in arms_of(OVERHEAD[0])]
    ['SDPA', 'regard native', 'regard chunked']
    """
    return forced_arms() if case.section == "isa" else ARMS[case.section]


def left_out(case: Case, arm: Arm, run: str, native: str | None) -> str | None:
    """Why a run does not spend its time on an arm that could, or None.

    Args:
        case: The case.
        arm: One of its arms.
        run: "quick", "default", "goals" or "all".
        native: Why the native backend cannot run the case, or None: where it cannot, chunked stands in.

    >>> left_out(PLAIN[0], CHUNKED, "default", native=None)
    'was left out to save time: --all runs it'
    """
    if run == "goals" and _beside(case, arm) and case.dtype == _BF16 and case.backward:
        return SLOW_BF16
    dear = arm.name in (EAGER.name, FLEX.name, CHUNKED.name, "native emulated")
    dear = dear or (run == "goals" and arm.name == "native portable")  # no goal speaks of it
    stands_in = arm.name == CHUNKED.name and native is not None and run != "goals"
    dear = dear or (case.alone and arm is not NATIVE)
    chosen = arm.name in case.also and (
        run == "default" or (run == "quick" and arm is not FLEX) or (run == "goals" and case.section == "statistics")
    )
    if run == "all" or not dear or stands_in or chosen:
        return None
    return "was left out to save time: --all runs it"


def once_is_enough(case: Case, arm: Arm, run: str) -> bool:
    """Whether a single turn of an arm will do: no goal asks for its time, or it is far from the others'.

    >>> [arm.name for arm in ARMS["features"] if once_is_enough(FEATURES[0], arm, "goals")]
    ['SDPA, plain', 'SDPA']
    """
    return run != "all" and (_beside(case, arm) or (case.seen == SIX and arm is EAGER))


def weighs(case: Case, arm: Arm, run: str) -> bool:
    """Whether an arm's memory is worth a process of its own, which takes seconds to start.

    >>> [arm.name for arm in ARMS["features"] if weighs(FEATURES[0], arm, "goals")]
    ['regard native']
    """
    dear = case.section in ("features", "statistics")
    return run == "all" or not dear or arm.name in (NATIVE.name, EAGER.name)


def _beside(case: Case, arm: Arm) -> bool:
    """SDPA, where the question is what a feature costs natively, or what seeing more than four does."""
    asked = case.section == "features" or case.seen in (SIX, PENALTY)
    return asked and arm.name in (SDPA.name, SDPA_PLAIN.name)


def chosen(cases: tuple[Case, ...], run: str, only: str = "") -> list[Case]:
    """The cases of a run whose name holds every word of `only`.

    >>> [case.short for case in chosen(CASES, "all", "SINKS bfloat16")]
    ['1×8×4096×64 full, sinks']
    """
    words = only.lower().split()
    return [
        case
        for case in cases
        if (run == "all" or run in case.sets) and all(word in case.name.lower() for word in words)
    ]
