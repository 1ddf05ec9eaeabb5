"""Figures that are made of several cases, and the goals that they are held to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regard.lab.arms import NATIVE, NATIVE_PLAIN, SDPA
from regard.lab.cases import BOTH, DOCUMENTS, FORWARD, WIDE, Case
from regard.lab.measure import Row

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

LINEAR = 0.5
"""Maps of scores (a number for each pair): extra memory below this cannot hold one."""

DENSE_MAPS = 1.25
"""Maps that a dense bias's backward pass may take beside the bias: its gradient, and what is linear."""


@dataclass(frozen=True)
class Verdict:
    """A goal and whether it is reached."""

    what: str
    goal: str
    found: str
    met: bool


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
    mine = [r for r in _of(rows, "plain") if (r.case.kind, r.case.passes) == (kind, passes)]
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
        for row in _of(rows, "window")
        if name in row.timings
    }
    for row in _of(rows, "window"):
        passes, dtype, n = row.case.passes, row.case.dtype, row.case.shape[2]
        half, whole = seconds.get((passes, dtype, n // 2)), seconds.get((passes, dtype, n))
        if half and whole:
            found.append((row.case, whole / half))
    return found


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal that these rows can speak to."""
    return [
        *_plain(rows),
        *_decode(rows),
        *_features(rows),
        *_least("dense learned bias: extra memory, in maps like it", "≤", DENSE_MAPS,
                (maps(row) for row in _of(rows, "bias")), "{:.2f}"),
        *_least("window 512: time when n doubles", "≤", DOUBLING,
                (more for _, more in doublings(rows)), "{:.2f}×"),
        *_least("AVX2 forced, float32: least of SDPA's speed", "≥", AVX2,
                (r.times("native avx2", SDPA.name) for r in _of(rows, "isa") if r.case.kind == "float32"),
                "{:.2f}×"),
        *_least("call overhead", "≤", MICROSECONDS,
                (1e6 * row.timings[NATIVE.name].seconds for row in _of(rows, "overhead")
                 if NATIVE.name in row.timings), "{:.1f} µs"),
    ]  # fmt: skip


def _plain(rows: Sequence[Row]) -> list[Verdict]:
    found: list[Verdict] = []
    for kind, passes, mean, least, share in PLAIN_GOALS:
        speeds = plain_speeds(rows, kind, passes, NATIVE.name)
        what = f"{passes} {kind}"
        if speeds:
            text = f"geometric mean over {len(speeds)} cases, in SDPAs"
            found += _least(f"{what}: {text}", "≥", mean, [geomean(speeds)], "{:.2f}×")
            found += _least(f"{what}: least, in SDPAs", "≥", least, speeds, "{:.2f}×")
        if share:
            long = [r for r in _of(rows, "plain") if r.case.shape[2] >= LONG]
            shares = [
                share_of_peak(r, rows)
                for r in long
                if (r.case.kind, r.case.passes) == (kind, passes)
            ]
            said = f"{what}: least share of FMA peak, n ≥ {LONG}"
            found += _least(said, "≥", share, shares, "{:.0%}")
    return found


def _decode(rows: Sequence[Row]) -> list[Verdict]:
    mine = _of(rows, "decode")
    best = [row.times(NATIVE.name, name) for row in mine if (name := best_sdpa(row))]
    shares = [share_of_bandwidth(row) for row in mine]
    return [
        *_least("decoding: least share of read bandwidth", "≥", BANDWIDTH, shares, "{:.0%}"),
        *_least("decoding: least, in the best SDPAs", "≥", BEST_SDPA, best, "{:.2f}×"),
    ]


def _features(rows: Sequence[Row]) -> list[Verdict]:
    found: list[Verdict] = []
    for row in _of(rows, "features"):
        case = row.case
        what = f"{case.twist or case.pattern}, {case.kind}"
        fair = case.twist == WIDE  # twice the values are more work by themselves
        text = "time of plain attention" + (", for the same work" if fair else "")
        found += _least(f"{what}: {text}", "≤", FEATURE, [cost(row, per_flop=fair)], "{:.2f}×")
        found += _least(
            f"{what}: extra memory, in maps of scores", "≤", LINEAR, [maps(row)], "{:.2f}"
        )
        if case.pattern == DOCUMENTS:
            per_pair = [cost(row, per_flop=True)]
            text = "time of plain attention, for each visible pair"
            found += _least(f"{what}: {text}", "≤", FEATURE, per_pair, "{:.2f}×")
    return found


def _least(
    what: str, sign: str, goal: float, values: Iterable[float | None], shown: str
) -> list[Verdict]:
    """A verdict on the worst of some values; none where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return []
    worst = min(known) if sign == "≥" else max(known)
    met = worst >= goal if sign == "≥" else worst <= goal
    return [Verdict(what, f"{sign} {shown.format(goal)}", shown.format(worst), met)]


def _of(rows: Sequence[Row], section: str) -> list[Row]:
    return [row for row in rows if row.case.section == section]
