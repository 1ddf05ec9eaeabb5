"""Figures computed from several cases, and the goals that they should reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from regard_benchmarks.cases import ASCENDING, BOTH, CAUSAL, DOCUMENTS, FORWARD, FOUR, FULL, PENALTY, SIX, WIDE, Case
from regard_benchmarks.decode import DECODE_METHODS
from regard_benchmarks.measure import CaseResult
from regard_benchmarks.methods import EAGER, NATIVE, NATIVE_PLAIN, SDPA
from regard_benchmarks.sections import CASES, FEATURES, WINDOWS, select_cases
from regard_benchmarks.weights_rectangle import WEIGHTS

LONG = 2048
"""The number of positions from which a plain forward pass has a goal for its share of the FMA peak."""

PLAIN_GOALS = (
    ("float32", FORWARD, 1.6, 1.2, 0.90),
    ("bfloat16", FORWARD, 3.0, 2.2, 0.85),
    ("float32", BOTH, 1.5, 1.2, None),
    ("bfloat16", BOTH, 2.2, 1.2, None),
)
"""dtype, passes, geometric mean of speeds in SDPAs, the least of them, share of peak at `LONG` and above."""

BANDWIDTH, BEST_SDPA, FEATURE, DOUBLING, AVX2, MICROSECONDS = 0.80, 1.5, 1.25, 2.2, 0.9, 25.0

STATISTICS_GOALS = (
    (FOUR, "", "float32", 1.10, 1.1),
    (FOUR, "", "bfloat16", 1.20, 2.0),
    (FOUR, ASCENDING, "", 1.40, None),
    (SIX, "", "", 1.60, None),
    (PENALTY, "", "", 1.15, None),
)
"""Statistics, kind of scores, dtype ("" is any), greatest time relative to plain attention,
least speed relative to SDPA."""

EAGER_GOALS = ((FULL, 5.0), (CAUSAL, 9.0))
"""Masks, and the least speed of six statistics relative to eager."""

EAGER_MEMORY, LONGEST_SECONDS, LONGEST_MEBIBYTES, SQUARE_MILLISECONDS = 40.0, 60.0, 256.0, 3.0

LINEAR = 0.5
"""Extra memory in maps of scores (a number for each pair): below this no map fits."""

DENSE_MAPS = 1.25
"""Extra memory of a dense bias's backward pass, in maps: its gradient, and what grows linearly."""


@dataclass(frozen=True)
class GoalResult:
    """A goal, the value that was measured, and whether it meets the goal; None where nothing was measured."""

    what: str
    goal: str
    value: str | None
    met: bool | None
    cases: int
    """The number of cases that were measured."""
    cases_of_goal: int
    """The number of cases that the goal covers."""
    once: int
    """The number of cases that were measured in a single turn."""


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean: for ratios the mean that does not depend on which side is the denominator.

    >>> geometric_mean([2.0, 8.0]), geometric_mean([0.5, 0.125])
    (4.0, 0.25)
    """
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs))


def peak(results: Sequence[CaseResult], kind: str) -> float | None:
    """The FMA peak in a dtype: the greatest of the measurements around all plain cases."""
    cases = [result for result in results if result.case.section == "plain" and result.case.kind == kind]
    return max((result.ceiling for result in cases if result.ceiling), default=None)


def share_of_peak(result: CaseResult, results: Sequence[CaseResult], name: str = NATIVE.name) -> float | None:
    """The share of the FMA peak that a method reaches; None where the peak was not measured."""
    if result.ceiling is None or result.case.section == "decode":
        return None
    rate, most = result.rate(name, result.case.flops), peak(results, result.case.kind)
    return rate / most if rate and most else None


def share_of_bandwidth(result: CaseResult, name: str = NATIVE.name) -> float | None:
    """The share of the read bandwidth that a method reaches in a decoding case."""
    rate = result.rate(name, result.case.read_bytes)
    return rate / result.ceiling if rate and result.ceiling else None


def best_sdpa(result: CaseResult) -> str | None:
    """The name of the fastest arrangement of SDPA."""
    names = [name for name in result.timings if name.startswith("SDPA")]
    return min(names, key=lambda name: result.timings[name].seconds, default=None)


def plain_speeds(results: Sequence[CaseResult], kind: str, passes: str, name: str) -> list[float]:
    """The speed of a method relative to SDPA, in each plain case of this dtype and these passes."""
    selected = [r for r in results if (r.case.section, r.case.kind, r.case.passes) == ("plain", kind, passes)]
    return [speed for result in selected if (speed := result.speedup(name, SDPA.name))]


def cost(result: CaseResult, *, per_flop: bool) -> float | None:
    """The native backend's time in a feature case over its time for plain attention of the same shape."""
    speed = result.speedup(NATIVE.name, NATIVE_PLAIN.name)
    if speed is None:
        return None
    return 1 / speed * (result.case.plain().flops / result.case.flops if per_flop else 1)


def memory_in_maps(result: CaseResult, name: str = NATIVE.name) -> float | None:
    """The extra memory of a method in maps of scores."""
    extra = result.extra_bytes.get(name)
    return None if extra is None else extra / result.case.map_bytes


def doublings(results: Sequence[CaseResult], name: str = NATIVE.name) -> list[tuple[Case, float]]:
    """For each window case: its time relative to the case of half the length, where both were measured."""
    ratios: list[tuple[Case, float]] = []
    seconds = {
        (result.case.passes, result.case.dtype, result.case.shape[2]): result.timings[name].seconds
        for result in results
        if result.case.section == "window" and name in result.timings
    }
    for result in (result for result in results if result.case.section == "window"):
        passes, dtype, n = result.case.passes, result.case.dtype, result.case.shape[2]
        half, whole = seconds.get((passes, dtype, n // 2)), seconds.get((passes, dtype, n))
        if half and whole:
            ratios.append((result.case, whole / half))
    return ratios


def has_single_turn(result: CaseResult, names: Iterable[str]) -> bool:
    """Whether any of these methods had a single turn."""
    return any(result.timings[name].once for name in names if name in result.timings)


def goal_results(results: Sequence[CaseResult]) -> list[GoalResult]:
    """The result of every goal, also of those that no case was measured for."""
    return [_goal_result(goal, results) for goal in GOALS]


@dataclass(frozen=True)
class Goal:
    """A bound on the worst of the figures of some cases, or on their mean."""

    what: str
    sign: str
    bound: float
    form: str
    """How the value is formatted."""
    covers: Callable[[Case], bool]
    """Whether a case counts for it."""
    figure: Callable[[CaseResult, Sequence[CaseResult]], float | None]
    """The figure of a result, given all results."""
    methods: tuple[str, ...] = (NATIVE.name, SDPA.name)
    """The methods whose times the figure uses."""
    mean: bool = False


def _goal_result(goal: Goal, results: Sequence[CaseResult]) -> GoalResult:
    figures = [
        (result, figure)
        for result in results
        if goal.covers(result.case) and (figure := goal.figure(result, results)) is not None
    ]
    limit = f"{goal.sign} {goal.form.format(goal.bound)}"
    cases = sum(goal.covers(case) for case in select_cases(CASES, "goals"))
    if not figures:
        return GoalResult(goal.what, limit, None, None, 0, cases, 0)
    at_least, values = goal.sign == "≥", [figure for _, figure in figures]
    value = geometric_mean(values) if goal.mean else min(values) if at_least else max(values)
    met = value >= goal.bound if at_least else value <= goal.bound
    turns = sum(has_single_turn(result, goal.methods) for result, _ in figures)
    return GoalResult(goal.what, limit, goal.form.format(value), met, len(figures), cases, turns)


def _speed(result: CaseResult, results: Sequence[CaseResult]) -> float | None:
    return result.speedup(NATIVE.name, SDPA.name)


def _memory(result: CaseResult, results: Sequence[CaseResult]) -> float | None:
    return memory_in_maps(result)


def _time(name: str, per_second: float) -> Callable[[CaseResult, Sequence[CaseResult]], float | None]:
    return lambda result, results: per_second * result.timings[name].seconds if name in result.timings else None


def _in_section(section: str) -> Callable[[Case], bool]:
    return lambda case: case.section == section


def _plain(kind: str, passes: str, mean: float, least: float, share: float | None) -> Iterator[Goal]:
    def covers(case: Case) -> bool:
        return (case.section, case.kind, case.passes) == ("plain", kind, passes)

    what = f"{passes} {kind}"
    yield Goal(f"{what}: geometric mean, in SDPAs", "≥", mean, "{:.2f}×", covers, _speed, mean=True)
    yield Goal(f"{what}: least, in SDPAs", "≥", least, "{:.2f}×", covers, _speed)
    if share is not None:
        share_name = f"{what}: least share of FMA peak, n ≥ {LONG}"
        yield Goal(
            share_name,
            "≥",
            share,
            "{:.0%}",
            lambda case: covers(case) and case.shape[2] >= LONG,
            share_of_peak,
            (NATIVE.name,),
        )


def _feature(case: Case) -> Iterator[Goal]:
    def covers(other: Case) -> bool:
        this = (case.section, case.twist, case.pattern, case.kind)
        return (other.section, other.twist, other.pattern, other.kind) == this

    what = f"{case.twist or case.pattern}, {case.kind}"
    methods = (NATIVE.name, NATIVE_PLAIN.name)
    fair = case.twist == WIDE  # twice the values are more work by themselves
    text = f"{what}: time of plain attention"
    yield Goal(
        text + (", for the same work" if fair else ""),
        "≤",
        FEATURE,
        "{:.2f}×",
        covers,
        lambda result, results: cost(result, per_flop=fair),
        methods,
    )
    if "memory" in case.sets:
        yield Goal(f"{what}: extra memory, in maps of scores", "≤", LINEAR, "{:.2f}", covers, _memory, ())
    if case.pattern == DOCUMENTS:
        yield Goal(
            f"{text}, for each visible pair",
            "≤",
            FEATURE,
            "{:.2f}×",
            covers,
            lambda result, results: cost(result, per_flop=True),
            methods,
        )


def _statistics(seen: str, twist: str, kind: str, most: float, least: float | None) -> Iterator[Goal]:
    def covers(case: Case) -> bool:
        same = case.seen == seen and case.twist == twist and kind in ("", case.kind)
        return same and case.shape[2] >= 4096 and not case.alone

    what = ", ".join(filter(None, (seen, twist, kind)))
    yield Goal(
        f"{what}: time of plain attention",
        "≤",
        most,
        "{:.2f}×",
        covers,
        lambda result, results: cost(result, per_flop=False),
        (NATIVE.name, NATIVE_PLAIN.name),
    )
    if least is not None:
        yield Goal(f"{what}: least, in SDPAs that see nothing", "≥", least, "{:.2f}×", covers, _speed)


def _beside_eager(mask: str | None = None) -> Callable[[Case], bool]:
    return lambda case: case.seen == SIX and EAGER.name in case.also and mask in (None, case.mask)


def _eager_memory(result: CaseResult, results: Sequence[CaseResult]) -> float | None:
    native, eager = (result.extra_bytes.get(name) for name in (NATIVE.name, EAGER.name))
    return None if native is None or eager is None else eager / max(native, 1)


def _is_longest(case: Case) -> bool:
    return case.seen == SIX and case.alone


def _speed_over_best_sdpa(result: CaseResult, results: Sequence[CaseResult]) -> float | None:
    name = best_sdpa(result)
    return result.speedup(NATIVE.name, name) if name else None


GOALS = (
    *(goal for bounds in PLAIN_GOALS for goal in _plain(*bounds)),
    Goal(
        "decoding: least share of read bandwidth",
        "≥",
        BANDWIDTH,
        "{:.0%}",
        _in_section("decode"),
        lambda result, results: share_of_bandwidth(result),
        (NATIVE.name,),
    ),
    Goal(
        "decoding: least, in the best SDPAs",
        "≥",
        BEST_SDPA,
        "{:.2f}×",
        _in_section("decode"),
        _speed_over_best_sdpa,
        tuple(method.name for method in DECODE_METHODS),
    ),
    *(goal for case in FEATURES for goal in _feature(case)),
    Goal(
        "dense learned bias: extra memory, in maps like it", "≤", DENSE_MAPS, "{:.2f}", _in_section("bias"), _memory, ()
    ),
    *(goal for bounds in STATISTICS_GOALS for goal in _statistics(*bounds)),
    *(
        Goal(
            f"{SIX}, {mask}: least, in eagers",
            "≥",
            least,
            "{:.2f}×",
            _beside_eager(mask),
            lambda result, results: result.speedup(NATIVE.name, EAGER.name),
            (NATIVE.name, EAGER.name),
        )
        for mask, least in EAGER_GOALS
    ),
    Goal(
        f"{SIX}: least extra memory of eager, in ours", "≥", EAGER_MEMORY, "{:.1f}×", _beside_eager(), _eager_memory, ()
    ),
    Goal(
        f"{SIX}, n = 131072: time", "≤", LONGEST_SECONDS, "{:.1f} s", _is_longest, _time(NATIVE.name, 1), (NATIVE.name,)
    ),
    Goal(
        f"{SIX}, n = 131072: extra memory",
        "≤",
        LONGEST_MEBIBYTES,
        "{:.0f} MiB",
        _is_longest,
        lambda result, results: extra / 2**20 if (extra := result.extra_bytes.get(NATIVE.name)) else None,
        (),
    ),
    Goal(
        "256×256 weights at n = 131072: time",
        "≤",
        SQUARE_MILLISECONDS,
        "{:.2f} ms",
        _in_section("square"),
        _time(WEIGHTS.name, 1e3),
        (WEIGHTS.name,),
    ),
    Goal(
        "window 512: time when n doubles",
        "≤",
        DOUBLING,
        "{:.2f}×",
        lambda case: case.section == "window" and case.shape[2] > WINDOWS[0].shape[2],
        lambda result, results: dict(doublings(results)).get(result.case),
        (NATIVE.name,),
    ),
    Goal(
        "AVX2 forced, float32: least of SDPA's speed",
        "≥",
        AVX2,
        "{:.2f}×",
        lambda case: case.section == "isa" and case.kind == "float32",
        lambda result, results: result.speedup("native avx2", SDPA.name),
        ("native avx2", SDPA.name),
    ),
    Goal(
        "call overhead",
        "≤",
        MICROSECONDS,
        "{:.1f} µs",
        _in_section("overhead"),
        _time(NATIVE.name, 1e6),
        (NATIVE.name,),
    ),
)
