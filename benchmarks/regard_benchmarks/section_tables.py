"""The tables of each section: rows of cells, which `tables.py` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from regard_benchmarks import goals as figures
from regard_benchmarks.cases import Case
from regard_benchmarks.implementations import CHUNKED, NATIVE, NATIVE_PLAIN, SDPA, SDPA_PLAIN
from regard_benchmarks.measure import Row
from regard_benchmarks.sections import arms_of

Table = tuple[str, list[str], list[list[str]]]
"""A title, column heads and rows of cells."""

Columns = Mapping[str, Callable[[Row], str]]
"""Heads, and the cell of a row under each."""

NONE = "—"


def seconds(value: float) -> str:
    """A time with its unit.

    >>> seconds(2.5), seconds(0.0123), seconds(17.2e-6)
    ('2.50 s', '12.3 ms', '17.2 µs')
    """
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def times(value: float | None) -> str:
    """A ratio.

    >>> times(1.234), times(None)
    ('1.23×', '—')
    """
    return NONE if value is None else f"{value:.2f}×"


def share(value: float | None) -> str:
    """A part of a whole.

    >>> share(0.914), share(None)
    ('91 %', '—')
    """
    return NONE if value is None else f"{100 * value:.0f} %"


def mebibytes(value: int | None) -> str:
    """A size.

    >>> mebibytes(3 << 20), mebibytes(None)
    ('3 MiB', '—')
    """
    return NONE if value is None else f"{value / 2**20:,.0f} MiB"


def counted(cases: int, once: int) -> str:
    """How many cases a figure is made of, and how many of them were measured in a single turn.

    >>> counted(12, 0), counted(12, 4)
    ('12', '12, 4 once')
    """
    return f"{cases}, {once} once" if once else str(cases)


def compared(rows: Sequence[Row], title: str, more: Columns = MappingProxyType({})) -> list[Table]:
    """The time of every arm, how many times as fast as the first one it is, and more columns: a table for
    each dtype and pass. Then what the cases of the section grow by."""
    found: list[Table] = []
    for passes, kind in dict.fromkeys((row.case.passes, row.case.kind) for row in rows):
        mine = _alike(rows, passes, kind)
        names = _names(mine)
        cells = [
            [row.case.short, *(_timed(row, name, names[0]) for name in names), *(cell(row) for cell in more.values())]
            for row in mine
        ]
        found.append((f"{title}: {passes}, {kind}", ["case", *names, *more], cells))
    return found + weighed(rows, title)


def weighed(rows: Sequence[Row], title: str) -> list[Table]:
    """How far each arm's peak memory grows."""
    mine = [row for row in rows if row.extra_bytes]
    if not mine:
        return []
    names = list(dict.fromkeys(name for row in mine for name in row.extra_bytes))
    cells = [[_with_passes(row.case), *(mebibytes(row.extra_bytes.get(name)) for name in names)] for row in mine]
    return [(f"{title}: extra peak memory", ["case", *names], cells)]


def plain(rows: Sequence[Row], title: str) -> list[Table]:
    """Times of all arms, how near ours comes to the processor's limit, and geometric means."""
    ours = NATIVE.name if _has(rows, NATIVE.name) else CHUNKED.name
    more: Columns = {
        "GFLOP/s": lambda row: _giga(row.rate(ours, row.case.flops)),
        "of FMA peak": lambda row: share(figures.share_of_peak(row, rows, ours)),
    }
    if not _has(rows, ours):
        return compared(rows, title)
    return [*compared(rows, title, more), *means(rows, ours, title)]


def means(rows: Sequence[Row], name: str, title: str) -> list[Table]:
    """Geometric means of the speed in SDPAs, for each dtype and pass."""
    cells: list[list[str]] = []
    for passes, kind in dict.fromkeys((row.case.passes, row.case.kind) for row in rows):
        speeds = figures.plain_speeds(rows, kind, passes, name)
        if not speeds:
            continue
        most = figures.peak(rows, kind)
        once = sum(figures.once(row, (name, SDPA.name)) for row in _alike(rows, passes, kind))
        cells.append(
            [
                f"{passes}, {kind}",
                counted(len(speeds), once),
                times(figures.geomean(speeds)),
                times(min(speeds)),
                times(max(speeds)),
                NONE if most is None else f"{_giga(most)} GFLOP/s",
            ]
        )
    heads = ["passes, dtype", "cases", "geometric mean", "least", "greatest", "FMA peak"]
    return [] if not cells else [(f"{title}: {name}, in SDPAs", heads, cells)]


def features(rows: Sequence[Row], title: str) -> list[Table]:
    """Time in multiples of the same backend's plain attention, here and in SDPA."""
    cells = [
        [
            f"{row.case.twist or row.case.mask}, {row.case.kind}",
            _time(row, NATIVE_PLAIN.name),
            _time(row, NATIVE.name),
            times(figures.cost(row, per_flop=False)),
            times(figures.cost(row, per_flop=True)),
            _time(row, SDPA_PLAIN.name),
            _time(row, SDPA.name),
            times(row.times(SDPA_PLAIN.name, SDPA.name)),
            *([_time(row, CHUNKED.name)] if _has(rows, CHUNKED.name) else []),
        ]
        for row in rows
    ]
    heads = [
        "feature",
        "native, plain",
        "native",
        "÷ plain",
        "÷ plain, same work",
        "SDPA, plain",
        "SDPA",
        "÷ SDPA plain",
    ]
    heads += [CHUNKED.name] if _has(rows, CHUNKED.name) else []
    shape = rows[0].case.plain()
    return [(f"{title}: {shape.short}, {shape.passes}", heads, cells), *weighed(rows, title)]


def statistics(rows: Sequence[Row], title: str) -> list[Table]:
    """Times of all arms, and what seeing costs natively."""
    return compared(rows, title, {"÷ plain": lambda row: times(figures.cost(row, per_flop=False))})


def bias(rows: Sequence[Row], title: str) -> list[Table]:
    """Extra memory in maps as large as the bias: 1 is its gradient alone."""
    cells = [
        [
            _with_passes(row.case),
            name,
            _time(row, name),
            mebibytes(row.case.map_bytes),
            mebibytes(row.extra_bytes.get(name)),
            times(figures.maps(row, name)),
        ]
        for row in rows
        for name in row.timings
    ]
    heads = ["case", "arm", "time", "the bias", "extra peak memory", "÷ the bias"]
    return [(title, heads, cells)]


def decode(rows: Sequence[Row], title: str) -> list[Table]:
    """Times, how near to the memory's limit, and beside each arrangement of SDPA."""
    names = _names(rows)
    ours = NATIVE.name if _has(rows, NATIVE.name) else CHUNKED.name
    cells: list[list[str]] = []
    for row in rows:
        rate, best = row.rate(ours, row.case.read_bytes), figures.best_sdpa(row)
        cells.append(
            [
                f"{row.case.key_shape[2]} keys, {row.case.kind}",
                *(_time(row, name) for name in names),
                NONE if rate is None else f"{rate / 1e9:.1f} GB/s",
                NONE if row.ceiling is None else f"{row.ceiling / 1e9:.1f} GB/s",
                share(figures.share_of_bandwidth(row, ours)),
                times(row.times(ours, best) if best else None),
            ]
        )
    first = rows[0].case
    shape = f"{first.shape[1]} query heads, {first.key_shape[1]} key heads, d {first.shape[3]}"
    heads = ["case", *names, f"{ours} reads", "a plain sum reads", "share", "× the best SDPA"]
    return [(f"{title}: {shape}", heads, cells)]


def window(rows: Sequence[Row], title: str) -> list[Table]:
    """Time, and by how much it is more than at half the length."""
    names = _names(rows)
    more = {name: dict(figures.doublings(rows, name)) for name in names}
    cells = [
        [
            _with_passes(row.case),
            *(
                f"{_time(row, name)}" + (f"  {times(more[name][row.case])}" if row.case in more[name] else "")
                for name in names
            ),
        ]
        for row in rows
    ]
    return [(f"{title}: × is to the time at half the length", ["case", *names], cells)]


def goals(rows: Sequence[Row]) -> list[Table]:
    """The goals, and what was reached: of all the cases that a goal speaks of, or "so far" of some."""
    cells: list[list[str]] = []
    for one in figures.verdicts(rows):
        some = one.cases < one.cases_of_goal
        cases = f"{one.cases} of {one.cases_of_goal}" if some else str(one.cases)
        if one.met is None:
            reached = "not measured"
        else:
            reached = ("yes" if one.met else "no") + (" so far" if some else "")
        cases += f", {one.once} once" if one.once else ""
        cells.append([one.what, one.goal, one.found or NONE, cases, reached])
    return [("Goals", ["figure", "goal", "found", "cases", "reached"], cells)]


VIEWS: dict[str, Callable[[Sequence[Row], str], list[Table]]] = {
    "plain": plain,
    "kinds": compared,
    "features": features,
    "bias": bias,
    "statistics": statistics,
    "square": compared,
    "decode": decode,
    "window": window,
    "overhead": compared,
    "isa": compared,
}


def _names(rows: Sequence[Row]) -> list[str]:
    """The arms that ran, in the order in which a section has them."""
    ran = list(dict.fromkeys(name for row in rows for name in row.timings))
    order = [arm.name for row in rows[:1] for arm in arms_of(row.case)]
    return sorted(ran, key=lambda name: order.index(name) if name in order else len(order))


def _alike(rows: Sequence[Row], passes: str, kind: str) -> list[Row]:
    return [row for row in rows if (row.case.passes, row.case.kind) == (passes, kind)]


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(name in row.timings for row in rows)


def _time(row: Row, name: str) -> str:
    timing = row.timings.get(name)
    if timing is None:
        return NONE
    spread = "once" if timing.spread is None else f"±{timing.spread:.0%}"
    return f"{seconds(timing.seconds)} {spread}"


def _timed(row: Row, name: str, base: str) -> str:
    speed = None if name == base else row.times(name, base)
    return _time(row, name) + ("" if speed is None else f"  {times(speed)}")


def _giga(rate: float | None) -> str:
    return NONE if rate is None else f"{rate / 1e9:,.0f}"


def _with_passes(case: Case) -> str:
    return f"{case.short}, {'both passes' if case.backward else 'forward'}"
