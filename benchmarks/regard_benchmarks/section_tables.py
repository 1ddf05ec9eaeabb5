"""The tables of each section: rows of cells, which `report.py` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from regard_benchmarks import goals
from regard_benchmarks.cases import Case
from regard_benchmarks.measure import CaseResult
from regard_benchmarks.methods import CHUNKED, NATIVE, NATIVE_PLAIN, SDPA, SDPA_PLAIN
from regard_benchmarks.sections import methods_of

Table = tuple[str, list[str], list[list[str]]]
"""A title, column heads and rows of cells."""

Columns = Mapping[str, Callable[[CaseResult], str]]
"""Column heads, and the cell of a result in each column."""

NONE = "—"


def seconds(value: float) -> str:
    """A time with its unit.

    >>> seconds(2.5), seconds(0.0123), seconds(17.2e-6)
    ('2.50 s', '12.3 ms', '17.2 µs')
    """
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def ratio(value: float | None) -> str:
    """A ratio.

    >>> ratio(1.234), ratio(None)
    ('1.23×', '—')
    """
    return NONE if value is None else f"{value:.2f}×"


def share(value: float | None) -> str:
    """A share as a percentage.

    >>> share(0.914), share(None)
    ('91 %', '—')
    """
    return NONE if value is None else f"{100 * value:.0f} %"


def mebibytes(value: int | None) -> str:
    """A number of bytes in MiB.

    >>> mebibytes(3 << 20), mebibytes(None)
    ('3 MiB', '—')
    """
    return NONE if value is None else f"{value / 2**20:,.0f} MiB"


def case_count(cases: int, once: int) -> str:
    """The number of cases of a figure, and of those that were measured in a single turn.

    >>> case_count(12, 0), case_count(12, 4)
    ('12', '12, 4 once')
    """
    return f"{cases}, {once} once" if once else str(cases)


def comparison_tables(results: Sequence[CaseResult], title: str, more: Columns = MappingProxyType({})) -> list[Table]:
    """The time of every method, its speed relative to the first, and more columns: a table for each dtype and pass.

    Then the extra memory of the section's cases.
    """
    tables: list[Table] = []
    for passes, kind in dict.fromkeys((result.case.passes, result.case.kind) for result in results):
        alike = _alike(results, passes, kind)
        names = _names(alike)
        cells = [
            [
                result.case.short,
                *(_timed(result, name, names[0]) for name in names),
                *(cell(result) for cell in more.values()),
            ]
            for result in alike
        ]
        tables.append((f"{title}: {passes}, {kind}", ["case", *names, *more], cells))
    return tables + memory_table(results, title)


def memory_table(results: Sequence[CaseResult], title: str) -> list[Table]:
    """The growth of each method's peak memory."""
    measured = [result for result in results if result.extra_bytes]
    if not measured:
        return []
    names = list(dict.fromkeys(name for result in measured for name in result.extra_bytes))
    cells = [
        [_with_passes(result.case), *(mebibytes(result.extra_bytes.get(name)) for name in names)] for result in measured
    ]
    return [(f"{title}: extra peak memory", ["case", *names], cells)]


def plain(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Times of all methods, our share of the processor's peak, and geometric means."""
    ours = NATIVE.name if _has(results, NATIVE.name) else CHUNKED.name
    more: Columns = {
        "GFLOP/s": lambda result: _giga(result.rate(ours, result.case.flops)),
        "of FMA peak": lambda result: share(goals.share_of_peak(result, results, ours)),
    }
    if not _has(results, ours):
        return comparison_tables(results, title)
    return [*comparison_tables(results, title, more), *means(results, ours, title)]


def means(results: Sequence[CaseResult], name: str, title: str) -> list[Table]:
    """Geometric means of the speed relative to SDPA, for each dtype and pass."""
    cells: list[list[str]] = []
    for passes, kind in dict.fromkeys((result.case.passes, result.case.kind) for result in results):
        speeds = goals.plain_speeds(results, kind, passes, name)
        if not speeds:
            continue
        peak = goals.peak(results, kind)
        once = sum(goals.has_single_turn(result, (name, SDPA.name)) for result in _alike(results, passes, kind))
        cells.append(
            [
                f"{passes}, {kind}",
                case_count(len(speeds), once),
                ratio(goals.geometric_mean(speeds)),
                ratio(min(speeds)),
                ratio(max(speeds)),
                NONE if peak is None else f"{_giga(peak)} GFLOP/s",
            ]
        )
    heads = ["passes, dtype", "cases", "geometric mean", "least", "greatest", "FMA peak"]
    return [] if not cells else [(f"{title}: {name}, in SDPAs", heads, cells)]


def features(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Time relative to the same method's plain attention, of regard and of SDPA."""
    cells = [
        [
            f"{result.case.twist or result.case.mask}, {result.case.kind}",
            _time(result, NATIVE_PLAIN.name),
            _time(result, NATIVE.name),
            ratio(goals.cost(result, per_flop=False)),
            ratio(goals.cost(result, per_flop=True)),
            _time(result, SDPA_PLAIN.name),
            _time(result, SDPA.name),
            ratio(result.speedup(SDPA_PLAIN.name, SDPA.name)),
            *([_time(result, CHUNKED.name)] if _has(results, CHUNKED.name) else []),
        ]
        for result in results
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
    heads += [CHUNKED.name] if _has(results, CHUNKED.name) else []
    shape = results[0].case.plain()
    return [(f"{title}: {shape.short}, {shape.passes}", heads, cells), *memory_table(results, title)]


def statistics(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Times of all methods, and the native overhead of statistics."""
    return comparison_tables(results, title, {"÷ plain": lambda result: ratio(goals.cost(result, per_flop=False))})


def bias(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Extra memory relative to the bias: 1 is its gradient alone."""
    cells = [
        [
            _with_passes(result.case),
            name,
            _time(result, name),
            mebibytes(result.case.map_bytes),
            mebibytes(result.extra_bytes.get(name)),
            ratio(goals.memory_in_maps(result, name)),
        ]
        for result in results
        for name in result.timings
    ]
    heads = ["case", "method", "time", "the bias", "extra peak memory", "÷ the bias"]
    return [(title, heads, cells)]


def decode(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Times of all methods, the share of the memory bandwidth, and the speed relative to the fastest SDPA."""
    names = _names(results)
    ours = NATIVE.name if _has(results, NATIVE.name) else CHUNKED.name
    cells: list[list[str]] = []
    for result in results:
        rate, best = result.rate(ours, result.case.read_bytes), goals.best_sdpa(result)
        cells.append(
            [
                f"{result.case.key_shape[2]} keys, {result.case.kind}",
                *(_time(result, name) for name in names),
                NONE if rate is None else f"{rate / 1e9:.1f} GB/s",
                NONE if result.ceiling is None else f"{result.ceiling / 1e9:.1f} GB/s",
                share(goals.share_of_bandwidth(result, ours)),
                ratio(result.speedup(ours, best) if best else None),
            ]
        )
    first = results[0].case
    shape = f"{first.shape[1]} query heads, {first.key_shape[1]} key heads, d {first.shape[3]}"
    heads = ["case", *names, f"{ours} reads", "a plain sum reads", "share", "× the best SDPA"]
    return [(f"{title}: {shape}", heads, cells)]


def window(results: Sequence[CaseResult], title: str) -> list[Table]:
    """Times, and their ratio to those at half the length."""
    names = _names(results)
    ratios = {name: dict(goals.doublings(results, name)) for name in names}
    cells = [
        [
            _with_passes(result.case),
            *(
                f"{_time(result, name)}"
                + (f"  {ratio(ratios[name][result.case])}" if result.case in ratios[name] else "")
                for name in names
            ),
        ]
        for result in results
    ]
    return [(f"{title}: × is to the time at half the length", ["case", *names], cells)]


def goals_table(results: Sequence[CaseResult]) -> list[Table]:
    """The goals and the values reached: "so far" where only some of a goal's cases were measured."""
    cells: list[list[str]] = []
    for goal in goals.goal_results(results):
        some = goal.cases < goal.cases_of_goal
        cases = f"{goal.cases} of {goal.cases_of_goal}" if some else str(goal.cases)
        if goal.met is None:
            reached = "not measured"
        else:
            reached = ("yes" if goal.met else "no") + (" so far" if some else "")
        cases += f", {goal.once} once" if goal.once else ""
        cells.append([goal.what, goal.goal, goal.value or NONE, cases, reached])
    return [("Goals", ["figure", "goal", "found", "cases", "reached"], cells)]


SECTION_TABLES: dict[str, Callable[[Sequence[CaseResult], str], list[Table]]] = {
    "plain": plain,
    "kinds": comparison_tables,
    "features": features,
    "bias": bias,
    "statistics": statistics,
    "square": comparison_tables,
    "decode": decode,
    "window": window,
    "overhead": comparison_tables,
    "isa": comparison_tables,
}


def _names(results: Sequence[CaseResult]) -> list[str]:
    """The methods that ran, in the order in which a section has them."""
    ran = list(dict.fromkeys(name for result in results for name in result.timings))
    order = [method.name for result in results[:1] for method in methods_of(result.case)]
    return sorted(ran, key=lambda name: order.index(name) if name in order else len(order))


def _alike(results: Sequence[CaseResult], passes: str, kind: str) -> list[CaseResult]:
    return [result for result in results if (result.case.passes, result.case.kind) == (passes, kind)]


def _has(results: Sequence[CaseResult], name: str) -> bool:
    return any(name in result.timings for result in results)


def _time(result: CaseResult, name: str) -> str:
    timing = result.timings.get(name)
    if timing is None:
        return NONE
    spread = "once" if timing.spread is None else f"±{timing.spread:.0%}"
    return f"{seconds(timing.seconds)} {spread}"


def _timed(result: CaseResult, name: str, base: str) -> str:
    speed = None if name == base else result.speedup(name, base)
    return _time(result, name) + ("" if speed is None else f"  {ratio(speed)}")


def _giga(rate: float | None) -> str:
    return NONE if rate is None else f"{rate / 1e9:,.0f}"


def _with_passes(case: Case) -> str:
    return f"{case.short}, {'both passes' if case.backward else 'forward'}"
