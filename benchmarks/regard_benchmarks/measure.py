"""Measures times in turns, memory in fresh processes, and the peak rates of the machine in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import Progress

from regard._native import core
from regard.backends import native
from regard.system.hardware import forget_peak, peak_memory
from regard_benchmarks.cases import Case
from regard_benchmarks.inputs import Inputs
from regard_benchmarks.methods import Method
from regard_benchmarks.new_process import run_in_new_process
from regard_benchmarks.sections import CASES, measures_memory, methods_of, one_turn_is_enough, reason_to_skip

LEAST_TURNS, MOST_TURNS = 3, 40
"""Least and most turns of a case. The least are run only where they fit into twice the case's time."""

BURST, MOST_CALLS = 0.004, 200
"""About how many seconds a method has in a turn, and its most calls: short calls are repeated and averaged."""

CEILING_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """How long a method takes for a case."""

    turns: tuple[float, ...]
    """Seconds of a call, in each turn."""

    @property
    def seconds(self) -> float:
        """The median.

        >>> Timing((1.0, 9.0, 2.0)).seconds
        2.0
        """
        return statistics.median(self.turns)

    @property
    def once(self) -> bool:
        """Whether there was only one turn, so that the spread is unknown."""
        return len(self.turns) == 1

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, as a share of the median; None of a single turn.

        >>> Timing((1.0, 2.0, 3.0)).spread, Timing((1.0,)).spread
        (0.25, None)
        """
        if self.once:
            return None
        low, middle, high = statistics.quantiles(self.turns, n=4, method="inclusive")
        return (high - low) / 2 / middle


def speedup(baseline: Timing, timing: Timing) -> float:
    """The time of a baseline over another time: the median over the turns, or the ratio of the medians.

    >>> speedup(Timing((2.0, 6.0, 8.0)), Timing((1.0, 2.0, 8.0)))
    2.0
    """
    if len(timing.turns) != len(baseline.turns):
        return baseline.seconds / timing.seconds
    return statistics.median(before / after for before, after in zip(baseline.turns, timing.turns, strict=True))


@dataclass(frozen=True)
class CaseResult:
    """What was measured for a case. A method that did not run has its reason in `reasons`."""

    case: Case
    timings: dict[str, Timing] = field(default_factory=dict[str, Timing])
    extra_bytes: dict[str, int] = field(default_factory=dict[str, int])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    ceiling: float | None = None
    """The peak rate of the machine, measured just before and after: FLOP/s, or bytes/s for a decoding case."""

    def speedup(self, name: str, other: str) -> float | None:
        """The speed of a method relative to another: the median over the turns of both.

        Where one had fewer turns than the other, the ratio of their medians.

        >>> CaseResult(Case("", (1, 1, 1, 1)), {"a": Timing((1.0, 1.0)), "b": Timing((2.0, 2.0))}).speedup("a", "b")
        2.0
        """
        if name not in self.timings or other not in self.timings:
            return None
        return speedup(self.timings[other], self.timings[name])

    def rate(self, name: str, work: float) -> float | None:
        """Work per second of a method."""
        return work / self.timings[name].seconds if name in self.timings else None


def measure_cases(cases: Sequence[Case], run: str, seconds: float) -> list[CaseResult]:
    """Run every case through every method that can run it, with a progress bar on standard error.

    Ctrl-C ends it early: it returns fewer results than cases, each of them complete.
    """
    results: list[CaseResult] = []
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=len(cases))
            for case in cases:
                progress.update(task, description=case.name)
                results.append(_measure_case(case, run, seconds))
                progress.advance(task)
    except KeyboardInterrupt:
        pass  # these results may have taken hours
    return results


def _measure_case(case: Case, run: str, seconds: float) -> CaseResult:
    methods = methods_of(case)
    unable = {method.name: why for method in methods if (why := method.why_not(case))}
    native_reason = next((why for name, why in unable.items() if "native" in name), None)
    skipped = {method.name: why for method in methods if (why := reason_to_skip(case, method, run, native_reason))}
    runnable = [method for method in methods if method.name not in unable and method.name not in skipped]
    before = ceiling(case)
    once = {method.name for method in runnable if one_turn_is_enough(case, method, run)}
    timings = {} if case.alone else time_methods(case, runnable, seconds, once=once)
    after = ceiling(case)
    result = CaseResult(case, timings, {}, skipped | unable, before and after and max(before, after))
    if run != "quick" and "memory" in case.sets:
        for method in runnable:
            if measures_memory(case, method, run) and (growth := memory_growth(case, method)) is not None:
                result.extra_bytes[method.name], seconds_alone = growth
                if case.alone:
                    timings[method.name] = Timing((seconds_alone,))
    return result


def ceiling(case: Case) -> float | None:
    """The peak rate of the machine now, in bytes or operations a second, for sections whose tables show it."""
    if case.section not in ("plain", "decode") or native.available() is not None:
        return None
    threads = torch.get_num_threads()
    if case.section == "decode":
        return core.read_bandwidth(threads, case.read_bytes, CEILING_SECONDS)
    kind = (torch.float32, torch.bfloat16, torch.float16).index(case.dtype)
    return core.fma_peak(threads, kind, CEILING_SECONDS)


def time_methods(
    case: Case,
    methods: Sequence[Method],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    once: Container[str] = (),
) -> dict[str, Timing]:
    """Time the methods in turns, each turn in another order, for about so many seconds.

    The first call of each is a warm-up: caches, threads, lazy initialisation. Where the warm-ups use up the seconds,
    they are the only turn; for the methods in `once` they always are.

    >>> from regard_benchmarks.methods import CHUNKED, EAGER
    >>> timings = time_methods(Case("plain", (1, 1, 16, 8)), [EAGER, CHUNKED], seconds=0.01)
    >>> [*timings], timings["eager"].seconds > 0
    (['eager', 'regard chunked'], True)
    """
    inputs = Inputs.of(case)
    return time_in_turns({method.name: method.call(inputs) for method in methods}, seconds, clock, once)


def time_in_turns(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    once: Container[str] = (),
) -> dict[str, Timing]:
    """Time any calls as `time_methods` does.

    >>> [*time_in_turns({"sleep": lambda: time.sleep(1e-3)}, seconds=0.01)]
    ['sleep']
    """
    turns = {name: [_first(call, clock)] for name, call in calls.items()}
    names = [name for name in calls if name not in once]
    if sum(turns[name][0] for name in names) <= seconds:
        repeats = {name: max(1, min(MOST_CALLS, round(BURST / max(turns[name].pop(), 1e-9)))) for name in names}
        start = clock()
        turn = 0
        while names and _has_time(turn, clock() - start, seconds):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                turns[name].append(_mean(calls[name], repeats[name], clock))
            turn += 1
    return {name: Timing(tuple(times)) for name, times in turns.items()}


def _has_time(turn: int, spent: float, seconds: float) -> bool:
    """Whether there is time for another turn, after so many turns and seconds.

    >>> [_has_time(turn, 1.5 * turn, 2.0) for turn in range(3)]  # three turns would take 4.5 s
    [True, True, False]
    """
    if turn < LEAST_TURNS:
        return turn == 0 or spent * (turn + 1) / turn <= 2 * seconds
    return turn < MOST_TURNS and spent < seconds


def _first(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the first call; of the second where the first is short, since most of that may be initialisation."""
    took = _mean(call, 1, clock)
    return took if took >= BURST else _mean(call, 1, clock)


def _mean(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def memory_growth(case: Case, method: Method) -> tuple[int, float] | None:
    """Bytes by which a fresh process grows, and seconds; None where the process fails."""
    threads = str(torch.get_num_threads())
    printed = run_in_new_process("bench", "--child", case.name, method.name, "--threads", threads)
    if printed is None:
        return None
    size, took = printed.split()
    return int(size), float(took)


def measure_growth(case_name: str, method_name: str) -> tuple[int, float]:
    """In the fresh process: the growth of peak memory from just before the case to after it, and the seconds."""
    case = next(case for case in CASES if case.name == case_name)
    method = next(method for method in methods_of(case) if method.name == method_name)
    method.call(Inputs.of(case.small(64)))()  # libraries initialise on first use, which is not the case's own memory
    call = method.call(Inputs.of(case))
    forget_peak()
    before = peak_memory()
    took = _mean(call, 1, time.perf_counter)
    return peak_memory() - before, took
