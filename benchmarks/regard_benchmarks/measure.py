"""Times in turns, memory in fresh processes, and what the machine allows in the same run."""

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
from regard_benchmarks.implementations import Arm
from regard_benchmarks.inputs import Inputs
from regard_benchmarks.new_process import run_in_new_process
from regard_benchmarks.sections import CASES, arms_of, left_out, once_is_enough, weighs

LEAST_TURNS, MOST_TURNS = 3, 40
"""Turns of a case. The least are taken only where they fit into twice the case's time."""

BURST, MOST_CALLS = 0.004, 200
"""Seconds that an arm has in a turn, about: short calls are repeated, and their mean counts."""

CEILING_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """How long an arm takes for a case."""

    times: tuple[float, ...]
    """Seconds of a call, in each turn."""

    @property
    def seconds(self) -> float:
        """The median.

        >>> Timing((1.0, 9.0, 2.0)).seconds
        2.0
        """
        return statistics.median(self.times)

    @property
    def once(self) -> bool:
        """Whether there was one turn only: a figure that nothing stands beside."""
        return len(self.times) == 1

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, as a share of the median; None of a single turn.

        >>> Timing((1.0, 2.0, 3.0)).spread, Timing((1.0,)).spread
        (0.25, None)
        """
        if self.once:
            return None
        low, middle, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return (high - low) / 2 / middle


def times(theirs: Timing, mine: Timing) -> float:
    """How many times as long theirs takes: the median over the turns, or the ratio of the medians.

    >>> times(Timing((2.0, 6.0, 8.0)), Timing((1.0, 2.0, 8.0)))
    2.0
    """
    if len(mine.times) != len(theirs.times):
        return theirs.seconds / mine.seconds
    both = zip(mine.times, theirs.times, strict=True)
    return statistics.median(their / my for my, their in both)


@dataclass(frozen=True)
class Row:
    """A case and what its arms took. An arm that did not run has its reason in `reasons`."""

    case: Case
    timings: dict[str, Timing] = field(default_factory=dict[str, Timing])
    extra_bytes: dict[str, int] = field(default_factory=dict[str, int])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    ceiling: float | None = None
    """What the machine allows, measured just before and after: FLOP/s, or bytes/s for a decoding case."""

    def times(self, name: str, other: str) -> float | None:
        """How many times as fast as another an arm is: the median over the turns of both.

        Where one had fewer turns than the other, the ratio of their medians.

        >>> Row(Case("", (1, 1, 1, 1)), {"a": Timing((1.0, 1.0)), "b": Timing((2.0, 2.0))}).times("a", "b")
        2.0
        """
        if name not in self.timings or other not in self.timings:
            return None
        return times(self.timings[other], self.timings[name])

    def rate(self, name: str, work: float) -> float | None:
        """So much work a second."""
        return work / self.timings[name].seconds if name in self.timings else None


def measured(cases: Sequence[Case], run: str, seconds: float) -> list[Row]:
    """Every case through every arm that can run it, with a progress bar on standard error.

    Ctrl-C ends it early: fewer rows than cases come back, each of them whole.
    """
    rows: list[Row] = []
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=len(cases))
            for case in cases:
                progress.update(task, description=case.name)
                rows.append(_row(case, run, seconds))
                progress.advance(task)
    except KeyboardInterrupt:
        pass  # hours may lie in these rows
    return rows


def _row(case: Case, run: str, seconds: float) -> Row:
    arms = arms_of(case)
    cannot = {arm.name: why for arm in arms if (why := arm.why_not(case))}
    ours = next((cannot[a.name] for a in arms if a.name in cannot and "native" in a.name), None)
    left = {arm.name: why for arm in arms if (why := left_out(case, arm, run, ours))}
    able = [arm for arm in arms if arm.name not in cannot and arm.name not in left]
    before = ceiling(case)
    once = {arm.name for arm in able if once_is_enough(case, arm, run)}
    timings = {} if case.alone else timed(case, able, seconds, once=once)
    after = ceiling(case)
    row = Row(case, timings, {}, left | cannot, before and after and max(before, after))
    if run != "quick" and "memory" in case.sets:
        for arm in able:
            if weighs(case, arm, run) and (apart := grown_apart(case, arm)) is not None:
                row.extra_bytes[arm.name], took = apart
                if case.alone:
                    timings[arm.name] = Timing((took,))
    return row


def ceiling(case: Case) -> float | None:
    """What the machine allows now: bytes it reads or operations it does in a second, where a table asks."""
    if case.section not in ("plain", "decode") or native.here() is not None:
        return None
    threads = torch.get_num_threads()
    if case.section == "decode":
        return core.read_bandwidth(threads, case.read_bytes, CEILING_SECONDS)
    number = (torch.float32, torch.bfloat16, torch.float16).index(case.dtype)
    return core.fma_peak(threads, number, CEILING_SECONDS)


def timed(
    case: Case,
    arms: Sequence[Arm],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    once: Container[str] = (),
) -> dict[str, Timing]:
    """The arms in turns, each turn in another order, for about so many seconds.

    A round of calls for nothing comes first: caches, threads, lazy initialisation. Where the arms that
    take turns use up the seconds in it, those calls are their only turn; for the arms in `once`, always.

    >>> from regard_benchmarks.implementations import CHUNKED, EAGER
    >>> timings = timed(Case("plain", (1, 1, 16, 8)), [EAGER, CHUNKED], seconds=0.01)
    >>> [*timings], timings["eager"].seconds > 0
    (['eager', 'regard chunked'], True)
    """
    inputs = Inputs.of(case)
    return taking_turns({arm.name: arm.call(inputs) for arm in arms}, seconds, clock, once)


def taking_turns(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    once: Container[str] = (),
) -> dict[str, Timing]:
    """The calls of `timed`, whatever they do.

    >>> [*taking_turns({"sleep": lambda: time.sleep(1e-3)}, seconds=0.01)]
    ['sleep']
    """
    took = {name: [_first(call, clock)] for name, call in calls.items()}
    names = [name for name in calls if name not in once]
    if sum(took[name][0] for name in names) <= seconds:
        repeats = {name: max(1, min(MOST_CALLS, round(BURST / max(took[name].pop(), 1e-9)))) for name in names}
        start = clock()
        turn = 0
        while names and _another(turn, clock() - start, seconds):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                took[name].append(_mean(calls[name], repeats[name], clock))
            turn += 1
    return {name: Timing(tuple(times)) for name, times in took.items()}


def _another(turn: int, spent: float, seconds: float) -> bool:
    """Whether there is time for another turn, after so many turns and seconds.

    >>> [_another(turn, 1.5 * turn, 2.0) for turn in range(3)]  # three turns would take 4.5 s
    [True, True, False]
    """
    if turn < LEAST_TURNS:
        return turn == 0 or spent * (turn + 1) / turn <= 2 * seconds
    return turn < MOST_TURNS and spent < seconds


def _first(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of a first call; where it is short, of the second: the first is mostly about being first."""
    took = _mean(call, 1, clock)
    return took if took >= BURST else _mean(call, 1, clock)


def _mean(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def grown_apart(case: Case, arm: Arm) -> tuple[int, float] | None:
    """Bytes by which a fresh process grows, and seconds; None where it does not come back."""
    threads = str(torch.get_num_threads())
    printed = run_in_new_process("bench", "--child", case.name, arm.name, "--threads", threads)
    if printed is None:
        return None
    size, took = printed.split()
    return int(size), float(took)


def grown(case_name: str, arm_name: str) -> tuple[int, float]:
    """In the fresh process: the growth of its peak from just before the case to after it, and the seconds."""
    case = next(case for case in CASES if case.name == case_name)
    arm = next(arm for arm in arms_of(case) if arm.name == arm_name)
    arm.call(Inputs.of(case.small(64)))()  # libraries load their parts on first use: not the case's own
    call = arm.call(Inputs.of(case))
    forget_peak()
    before = peak_memory()
    took = _mean(call, 1, time.perf_counter)
    return peak_memory() - before, took
