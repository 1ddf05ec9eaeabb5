"""Figures that are made of several cases, and the goals that they are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from regard_benchmarks.cases import ASCENDING, BOTH, CAUSAL, DOCUMENTS, FORWARD, FOUR, FULL, PENALTY, SIX, WIDE, Case
from regard_benchmarks.decode import DECODE_ARMS
from regard_benchmarks.implementations import EAGER, NATIVE, NATIVE_PLAIN, SDPA
from regard_benchmarks.measure import Row
from regard_benchmarks.sections import CASES, FEATURES, WINDOWS, chosen
from regard_benchmarks.weights_rectangle import WEIGHTS

LONG = 2048
"""Positions from which a plain forward pass is held to a share of the FMA peak."""

PLAIN_GOALS = (
    ("float32", FORWARD, 1.6, 1.2, 0.90),
    ("bfloat16", FORWARD, 3.0, 2.2, 0.85),
    ("float32", BOTH, 1.5, 1.2, None),
    ("bfloat16", BOTH, 2.2, 1.2, None),
)
"""dtype, passes, geometric mean of speeds in SDPAs, the least of them, share of peak at `LONG` and above."""

BANDWIDTH, BEST_SDPA, FEATURE, DOUBLING, AVX2, MICROSECONDS = 0.80, 1.5, 1.25, 2.2, 0.9, 25.0

SEEING = (
    (FOUR, "", "float32", 1.10, 1.1),
    (FOUR, "", "bfloat16", 1.20, 2.0),
    (FOUR, ASCENDING, "", 1.40, None),
    (SIX, "", "", 1.60, None),
    (PENALTY, "", "", 1.15, None),
)
"""What is seen, of which scores, dtype ("" is any), time in plain attentions, speed in blind SDPAs."""

EAGERS = ((FULL, 5.0), (CAUSAL, 9.0))
"""Masks, and the speed of six statistics in eagers."""

EAGER_MEMORY, FAR_SECONDS, FAR_MEBIBYTES, SQUARE_MILLISECONDS = 40.0, 60.0, 256.0, 3.0

LINEAR = 0.5
"""Maps of scores (a number for each pair): extra memory below this cannot hold one."""

DENSE_MAPS = 1.25
"""Maps that a dense bias's backward pass may take beside the bias: its gradient, and what is linear."""


@dataclass(frozen=True)
class Verdict:
    """A goal and whether it is reached; None where it was not measured."""

    what: str
    goal: str
    found: str | None
    met: bool | None
    cases: int
    """How many cases the finding is made of."""
    cases_of_goal: int
    """How many the goal speaks of: where these are more, it is reached so far, or not."""
    once: int
    """How many of the cases were measured in a single turn."""


def geomean(values: Iterable[float]) -> float:
    """The geometric mean: of ratios, the one that does not depend on which side is below.

    >>> geomean([2.0, 8.0]), geomean([0.5, 0.125])
    (4.0, 0.25)
    """
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs))


def peak(rows: Sequence[Row], kind: str) -> float | None:
    """The FMA peak in a dtype: the greatest that was measured beside any plain case."""
    mine = [row for row in rows if row.case.section == "plain" and row.case.kind == kind]
    return max((row.ceiling for row in mine if row.ceiling), default=None)


def share_of_peak(row: Row, rows: Sequence[Row], name: str = NATIVE.name) -> float | None:
    """The share of the FMA peak that an arm reaches; None where that was not measured beside it."""
    if row.ceiling is None or row.case.section == "decode":
        return None
    rate, most = row.rate(name, row.case.flops), peak(rows, row.case.kind)
    return rate / most if rate and most else None


def share_of_bandwidth(row: Row, name: str = NATIVE.name) -> float | None:
    """The share of the read bandwidth that an arm reaches in a decoding case."""
    rate = row.rate(name, row.case.read_bytes)
    return rate / row.ceiling if rate and row.ceiling else None


def best_sdpa(row: Row) -> str | None:
    """Which arrangement of SDPA is the fastest."""
    ways = [name for name in row.timings if name.startswith("SDPA")]
    return min(ways, key=lambda name: row.timings[name].seconds, default=None)


def plain_speeds(rows: Sequence[Row], kind: str, passes: str, name: str) -> list[float]:
    """How many times as fast as SDPA an arm is, in each plain case of this dtype and these passes."""
    mine = [r for r in rows if (r.case.section, r.case.kind, r.case.passes) == ("plain", kind, passes)]
    return [speed for row in mine if (speed := row.times(name, SDPA.name))]


def cost(row: Row, *, per_flop: bool) -> float | None:
    """The native backend's time in a feature case over its time for plain attention of the same shape."""
    speed = row.times(NATIVE.name, NATIVE_PLAIN.name)
    if speed is None:
        return None
    return 1 / speed * (row.case.plain().flops / row.case.flops if per_flop else 1)


def maps(row: Row, name: str = NATIVE.name) -> float | None:
    """Extra memory in maps of scores."""
    grown = row.extra_bytes.get(name)
    return None if grown is None else grown / row.case.map_bytes


def doublings(rows: Sequence[Row], name: str = NATIVE.name) -> list[tuple[Case, float]]:
    """For each window case whose half was measured too, by how much its time is more."""
    found: list[tuple[Case, float]] = []
    seconds = {
        (row.case.passes, row.case.dtype, row.case.shape[2]): row.timings[name].seconds
        for row in rows
        if row.case.section == "window" and name in row.timings
    }
    for row in (row for row in rows if row.case.section == "window"):
        passes, dtype, n = row.case.passes, row.case.dtype, row.case.shape[2]
        half, whole = seconds.get((passes, dtype, n // 2)), seconds.get((passes, dtype, n))
        if half and whole:
            found.append((row.case, whole / half))
    return found


def once(row: Row, names: Iterable[str]) -> bool:
    """Whether any of these arms had a single turn."""
    return any(row.timings[name].once for name in names if name in row.timings)


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal, those that these rows cannot speak to as well."""
    return [_verdict(goal, rows) for goal in GOALS]


@dataclass(frozen=True)
class Goal:
    """A bound on the worst of some figures, or on their mean."""

    what: str
    sign: str
    bound: float
    shown: str
    of: Callable[[Case], bool]
    """Whether it speaks of a case."""
    figure: Callable[[Row, Sequence[Row]], float | None]
    """Of a row among all of them."""
    arms: tuple[str, ...] = (NATIVE.name, SDPA.name)
    """Whose times the figure is made of."""
    mean: bool = False


def _verdict(goal: Goal, rows: Sequence[Row]) -> Verdict:
    mine = [(row, figure) for row in rows if goal.of(row.case) and (figure := goal.figure(row, rows)) is not None]
    limit = f"{goal.sign} {goal.shown.format(goal.bound)}"
    cases = sum(goal.of(case) for case in chosen(CASES, "goals"))
    if not mine:
        return Verdict(goal.what, limit, None, None, 0, cases, 0)
    upward, known = goal.sign == "≥", [figure for _, figure in mine]
    found = geomean(known) if goal.mean else min(known) if upward else max(known)
    met = found >= goal.bound if upward else found <= goal.bound
    turns = sum(once(row, goal.arms) for row, _ in mine)
    return Verdict(goal.what, limit, goal.shown.format(found), met, len(mine), cases, turns)


def _speed(row: Row, rows: Sequence[Row]) -> float | None:
    return row.times(NATIVE.name, SDPA.name)


def _maps(row: Row, rows: Sequence[Row]) -> float | None:
    return maps(row)


def _time(name: str, per_second: float) -> Callable[[Row, Sequence[Row]], float | None]:
    return lambda row, rows: per_second * row.timings[name].seconds if name in row.timings else None


def _of(section: str) -> Callable[[Case], bool]:
    return lambda case: case.section == section


def _plain(kind: str, passes: str, mean: float, least: float, share: float | None) -> Iterator[Goal]:
    def of(case: Case) -> bool:
        return (case.section, case.kind, case.passes) == ("plain", kind, passes)

    what = f"{passes} {kind}"
    yield Goal(f"{what}: geometric mean, in SDPAs", "≥", mean, "{:.2f}×", of, _speed, mean=True)
    yield Goal(f"{what}: least, in SDPAs", "≥", least, "{:.2f}×", of, _speed)
    if share is not None:
        said = f"{what}: least share of FMA peak, n ≥ {LONG}"
        yield Goal(
            said, "≥", share, "{:.0%}", lambda case: of(case) and case.shape[2] >= LONG, share_of_peak, (NATIVE.name,)
        )


def _feature(case: Case) -> Iterator[Goal]:
    def of(other: Case) -> bool:
        mine = (case.section, case.twist, case.pattern, case.kind)
        return (other.section, other.twist, other.pattern, other.kind) == mine

    what = f"{case.twist or case.pattern}, {case.kind}"
    arms = (NATIVE.name, NATIVE_PLAIN.name)
    fair = case.twist == WIDE  # twice the values are more work by themselves
    text = f"{what}: time of plain attention"
    yield Goal(
        text + (", for the same work" if fair else ""),
        "≤",
        FEATURE,
        "{:.2f}×",
        of,
        lambda row, rows: cost(row, per_flop=fair),
        arms,
    )
    if "memory" in case.sets:
        yield Goal(f"{what}: extra memory, in maps of scores", "≤", LINEAR, "{:.2f}", of, _maps, ())
    if case.pattern == DOCUMENTS:
        yield Goal(
            f"{text}, for each visible pair",
            "≤",
            FEATURE,
            "{:.2f}×",
            of,
            lambda row, rows: cost(row, per_flop=True),
            arms,
        )


def _seeing(seen: str, twist: str, kind: str, most: float, least: float | None) -> Iterator[Goal]:
    def of(case: Case) -> bool:
        mine = case.seen == seen and case.twist == twist and kind in ("", case.kind)
        return mine and case.shape[2] >= 4096 and not case.alone

    what = ", ".join(filter(None, (seen, twist, kind)))
    yield Goal(
        f"{what}: time of plain attention",
        "≤",
        most,
        "{:.2f}×",
        of,
        lambda row, rows: cost(row, per_flop=False),
        (NATIVE.name, NATIVE_PLAIN.name),
    )
    if least is not None:
        yield Goal(f"{what}: least, in SDPAs that see nothing", "≥", least, "{:.2f}×", of, _speed)


def _beside_eager(mask: str | None = None) -> Callable[[Case], bool]:
    return lambda case: case.seen == SIX and EAGER.name in case.also and mask in (None, case.mask)


def _memory_of_eager(row: Row, rows: Sequence[Row]) -> float | None:
    ours, theirs = (row.extra_bytes.get(name) for name in (NATIVE.name, EAGER.name))
    return None if ours is None or theirs is None else theirs / max(ours, 1)


def _far(case: Case) -> bool:
    return case.seen == SIX and case.alone


def _best(row: Row, rows: Sequence[Row]) -> float | None:
    name = best_sdpa(row)
    return row.times(NATIVE.name, name) if name else None


GOALS = (
    *(goal for row in PLAIN_GOALS for goal in _plain(*row)),
    Goal(
        "decoding: least share of read bandwidth",
        "≥",
        BANDWIDTH,
        "{:.0%}",
        _of("decode"),
        lambda row, rows: share_of_bandwidth(row),
        (NATIVE.name,),
    ),
    Goal(
        "decoding: least, in the best SDPAs",
        "≥",
        BEST_SDPA,
        "{:.2f}×",
        _of("decode"),
        _best,
        tuple(arm.name for arm in DECODE_ARMS),
    ),
    *(goal for case in FEATURES for goal in _feature(case)),
    Goal("dense learned bias: extra memory, in maps like it", "≤", DENSE_MAPS, "{:.2f}", _of("bias"), _maps, ()),
    *(goal for row in SEEING for goal in _seeing(*row)),
    *(
        Goal(
            f"{SIX}, {mask}: least, in eagers",
            "≥",
            least,
            "{:.2f}×",
            _beside_eager(mask),
            lambda row, rows: row.times(NATIVE.name, EAGER.name),
            (NATIVE.name, EAGER.name),
        )
        for mask, least in EAGERS
    ),
    Goal(
        f"{SIX}: least extra memory of eager, in ours",
        "≥",
        EAGER_MEMORY,
        "{:.1f}×",
        _beside_eager(),
        _memory_of_eager,
        (),
    ),
    Goal(f"{SIX}, n = 131072: time", "≤", FAR_SECONDS, "{:.1f} s", _far, _time(NATIVE.name, 1), (NATIVE.name,)),
    Goal(
        f"{SIX}, n = 131072: extra memory",
        "≤",
        FAR_MEBIBYTES,
        "{:.0f} MiB",
        _far,
        lambda row, rows: grown / 2**20 if (grown := row.extra_bytes.get(NATIVE.name)) else None,
        (),
    ),
    Goal(
        "256×256 weights at n = 131072: time",
        "≤",
        SQUARE_MILLISECONDS,
        "{:.2f} ms",
        _of("square"),
        _time(WEIGHTS.name, 1e3),
        (WEIGHTS.name,),
    ),
    Goal(
        "window 512: time when n doubles",
        "≤",
        DOUBLING,
        "{:.2f}×",
        lambda case: case.section == "window" and case.shape[2] > WINDOWS[0].shape[2],
        lambda row, rows: dict(doublings(rows)).get(row.case),
        (NATIVE.name,),
    ),
    Goal(
        "AVX2 forced, float32: least of SDPA's speed",
        "≥",
        AVX2,
        "{:.2f}×",
        lambda case: case.section == "isa" and case.kind == "float32",
        lambda row, rows: row.times("native avx2", SDPA.name),
        ("native avx2", SDPA.name),
    ),
    Goal("call overhead", "≤", MICROSECONDS, "{:.1f} µs", _of("overhead"), _time(NATIVE.name, 1e6), (NATIVE.name,)),
)
