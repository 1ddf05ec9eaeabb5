"""The benchmark measures what it says, on cases small enough for a test."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console

from regard import cli
from regard._native import core
from regard.backends import chunked, native
from regard.errors import OptionError
from regard_benchmarks import bench, measure
from regard_benchmarks.cases import (
    ALIBI,
    ASCENDING,
    BOTH,
    CAUSAL,
    DROPOUT,
    PENALTY,
    SEEN,
    SINKS,
    SIX,
    SOFTCAP,
    TWISTS,
    WIDE,
    Case,
    Sizes,
)
from regard_benchmarks.flex import FLEX
from regard_benchmarks.inputs import Inputs
from regard_benchmarks.measure import CaseResult, Timing, time_methods
from regard_benchmarks.methods import CHUNKED, EAGER, SDPA, SDPA_UNOBSERVED, Baseline, Method
from regard_benchmarks.report import reasons
from regard_benchmarks.sections import (
    CASES,
    GOAL_SHAPES,
    METHODS,
    STATISTICS,
    TITLES,
    methods_of,
    reason_to_skip,
    select_cases,
)

TINY = (1, 2, 40, 8)
GROUPED: Sizes = (1, 4, 1, 8)


class FakeCore:
    """What the founder's core offers, with figures that are easy to check."""

    def __init__(self) -> None:
        self.chosen, self.used = "best", list[str]()

    def isa(self) -> str:
        return self.chosen

    def use(self, isa: str) -> None:
        self.chosen = isa
        self.used.append(isa)

    def kernels(self) -> tuple[str, ...]:
        return ("avx512", "avx2")

    def fma_peak(self, threads: int, kind: int, seconds: float) -> float:
        return 1e9 * (1 + kind)

    def read_bandwidth(self, threads: int, size: int, seconds: float) -> float:
        return float(size)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    """A native backend that runs everything, by way of the chunked one."""
    fake_core = FakeCore()
    for name in ("isa", "use", "kernels", "fma_peak", "read_bandwidth"):
        monkeypatch.setattr(core, name, getattr(fake_core, name), raising=False)
    monkeypatch.setattr(native, "available", lambda: None)
    monkeypatch.setattr(native, "why_not", lambda problem: None)
    for name in ("run", "prepare"):
        monkeypatch.setattr(native, name, getattr(chunked, name), raising=False)
    return fake_core


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: "the core is not built")
    monkeypatch.setattr(native, "why_not", lambda problem: "the core is not built")


def kinds() -> list[Case]:
    """Every kind of case that is measured, once, on a tiny shape in float32."""
    tiny: dict[str, Case] = {}
    for case in (case for case in CASES if case.section != "square"):
        b, h = (1, 2) if case.keys is None else (1, 4)
        shape = (b, h, case.shape[2], 8)
        keys = case.keys and (1, 2, 40, 8)
        tiny_case = dataclasses.replace(case, shape=shape, keys=keys, dtype=torch.float32).small(40)
        tiny.setdefault(tiny_case.name, tiny_case)
    return list(tiny.values())


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("case", kinds(), ids=lambda case: case.name)
def test_every_arm_gives_what_the_formula_gives(case: Case) -> None:
    inputs = Inputs.of(case)
    methods = [method for method in methods_of(case) if not method.why_not(case) and method not in (EAGER, FLEX)]
    assert methods
    for method in methods:
        compared = Inputs.of(method.simplify(case)) if isinstance(method, Baseline) else inputs
        result, expected = method.call(inputs)(), EAGER.call(compared)()
        assert len(result) == len(expected)
        if case.seen:  # what sees is compared with what sees nothing of the same
            assert compared.case in (case, dataclasses.replace(case, seen=""))
        if compared.case.twist == DROPOUT:
            assert not torch.equal(result[0], method.call(inputs)()[0])
            continue
        for got, reference in zip(result, expected, strict=True):
            if got.dtype == torch.int64:  # of top-8: in the formula, masked keys have indices too
                reference = torch.where(expected[3] > 0, reference, -1)
            torch.testing.assert_close(got, reference, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("mask", ["full", CAUSAL])
def test_a_square_is_that_of_the_whole_map(mask: str) -> None:
    inputs = Inputs.of(Case("square", TINY, mask))
    scores = inputs.q[0, 0] @ inputs.k[0, 0].T * 8**-0.5
    visible = inputs.visible()
    whole = (scores if visible is None else scores.masked_fill(~visible, -torch.inf)).softmax(-1)
    for method in METHODS["square"]:
        (square,) = method.call(inputs)()
        torch.testing.assert_close(square, whole[20:30, 10:20])


def test_a_penalty_is_part_of_what_a_step_lowers() -> None:
    inputs = Inputs.of(Case("statistics", TINY, passes=BOTH, seen=PENALTY))
    weights = (inputs.q @ inputs.k.mT * 8**-0.5).softmax(-1)
    entropy = -(weights * weights.log()).sum(-1)
    loss = (weights @ inputs.v * inputs.grad_output).sum() + entropy.mean()
    reference = torch.autograd.grad(loss, inputs.differentiable)
    torch.testing.assert_close(CHUNKED.call(inputs)()[2:], reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [40, 4096])
def test_ascending_scores_ascend_in_every_row(n: int, dtype: torch.dtype) -> None:
    inputs = Inputs.of(Case("statistics", (1, 2, n, 8), dtype=dtype, twist=ASCENDING))
    scores = inputs.q[:, :, ::20].double() @ inputs.k.double().mT * 8**-0.5
    assert bool((scores.diff() > 0).all())
    assert float(scores.amax()) <= 8.1
    assert bool((scores.float().softmax(-1) > 0).all())


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("mask", "twist"), [("full", ""), (CAUSAL, ""), ("window 20", SOFTCAP), ("documents 50", ALIBI)]
)
def test_flex_attention_gives_what_the_formula_gives(mask: str, twist: str) -> None:
    inputs = Inputs.of(Case("kinds", (1, 2, 128, 16), mask, twist=twist))
    assert FLEX.why_not(inputs.case) is None
    torch.testing.assert_close(FLEX.call(inputs)(), EAGER.call(inputs)(), rtol=2e-4, atol=2e-5)


def test_flex_attention_says_what_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FLEX.why_not(Case("plain", (1, 2, 128, 8))) is None
    assert "multiple of 128" in (FLEX.why_not(Case("plain", TINY)) or "")
    assert FLEX.why_not(Case("plain", TINY, passes=BOTH)) == "has no backward pass on a CPU"
    assert "sinks" in (FLEX.why_not(Case("plain", TINY, twist=SINKS)) or "")
    assert "every pair" in (FLEX.why_not(Case("window", (1, 2, 32768, 64), "window 512")) or "")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no C++ compiler" in (FLEX.why_not(Case("plain", (1, 2, 128, 8))) or "")


def test_bfloat16_cases_run_too() -> None:
    for twist in ("", *TWISTS):
        inputs = Inputs.of(Case("", TINY, dtype=torch.bfloat16, passes=BOTH, twist=twist))
        for method in (SDPA, EAGER, CHUNKED):
            if not method.why_not(inputs.case):
                assert method.call(inputs)()[0].dtype == torch.bfloat16


@pytest.mark.parametrize("mask", ["full", "window 7", "window 60", "documents 9", "documents 8"])
def test_pairs_are_those_that_are_seen(mask: str) -> None:
    case = Case("", TINY, mask)
    seen = Inputs.of(case).visible()
    assert case.pairs == (40 * 40 if seen is None else int(seen.sum()))


@pytest.mark.parametrize("twist", ["", WIDE])
def test_flops_are_those_of_the_matrix_products(twist: str) -> None:
    case = Case("", TINY, twist=twist)
    i = Inputs.of(case)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        weights = i.q @ i.k.mT
        _ = weights @ i.v
    assert case.flops == counter.get_total_flops()
    assert dataclasses.replace(case, mask=CAUSAL).flops == case.flops / 2
    assert dataclasses.replace(case, passes=BOTH).flops == 3.5 * case.flops


def test_cases_cover_what_the_goals_speak_of() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.section for case in CASES} == set(TITLES) == {*METHODS, "isa"}
    plain = [case for case in select_cases(CASES, "goals") if case.section == "plain"]
    assert len(plain) == len(GOAL_SHAPES) * 2 * 2 * 2
    assert {case.shape for case in plain} == set(GOAL_SHAPES)
    assert {case.twist for case in CASES} == {"", *TWISTS}
    assert {case.seen for case in CASES} == {"", *SEEN}
    sets = {name for case in CASES for name in case.sets}
    assert sets == {"quick", "default", "goals", "memory", "alone"}
    assert set(select_cases(CASES, "quick")) <= set(select_cases(CASES, "default"))
    assert select_cases(CASES, "all") == list(CASES)
    assert not any(SDPA_UNOBSERVED.why_not(case) for case in STATISTICS)
    names = {method.name for methods in METHODS.values() for method in methods}
    assert all(name in names for case in CASES for name in case.also)


def test_only_takes_the_cases_with_all_its_words() -> None:
    selected = select_cases(CASES, "all", "Decode bfloat16 8192")
    assert [case.short for case in selected] == ["1×32×1×128 on 1×8×8192×128"]
    assert not select_cases(CASES, "quick", "window")


def test_what_a_run_leaves_out() -> None:
    case = Case("plain", TINY, also=("eager", "FlexAttention"))
    slow = {
        run: [method.name for method in METHODS["plain"] if reason_to_skip(case, method, run, native=None)]
        for run in ("quick", "default", "goals", "all")
    }
    assert slow == {
        "quick": ["FlexAttention", "regard chunked"],
        "default": ["regard chunked"],
        "goals": ["eager", "FlexAttention", "regard chunked"],
        "all": [],
    }
    assert reason_to_skip(case, CHUNKED, "quick", native="not built") is None


@pytest.mark.usefixtures("fake")
def test_a_goals_run_spends_its_time_on_what_the_goals_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "kernels", lambda: ("avx2", "portable", "emulated"))

    def methods_in(case: Case, run: str) -> list[str]:
        return [method.name for method in methods_of(case) if not reason_to_skip(case, method, run, native=None)]

    single, half = (
        Case("features", TINY, dtype=dtype, passes=BOTH, twist=SINKS) for dtype in (torch.float32, torch.bfloat16)
    )
    assert methods_in(single, "goals") == ["native, plain", "regard native", "SDPA, plain", "SDPA"]
    assert methods_in(half, "goals") == ["native, plain", "regard native"]
    assert "SDPA" in methods_in(half, "all")
    why = reason_to_skip(half, SDPA, "goals", native=None) or ""
    (text,) = reasons([CaseResult(half, reasons={SDPA.name: why})])
    assert text.startswith("SDPA was left out: its bfloat16 backward pass takes many seconds a call")
    assert methods_in(Case("isa", TINY), "goals") == ["SDPA", "native avx2"]
    assert methods_in(Case("isa", TINY), "default") == ["SDPA", "native avx2", "native portable"]
    assert "native emulated" in methods_in(Case("isa", TINY), "all")
    beside = Case("statistics", TINY, seen=SIX, also=(EAGER.name,))
    assert methods_in(beside, "goals") == ["SDPA", "eager", "native, plain", "regard native"]
    far = dataclasses.replace(beside, sets=("goals", "memory", "alone"), also=())
    assert methods_in(far, "goals") == ["regard native"]
    assert len(methods_in(far, "all")) == 5


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("run", "turns", "measured"), [("goals", 1, 1), ("all", 3, 2)])
def test_a_run_hands_that_on(run: str, turns: int, measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "memory_growth", lambda case, method: (1, 2.0))
    monkeypatch.setitem(METHODS, "features", METHODS["features"][1:3])
    case = Case("features", TINY, passes=BOTH, twist=SINKS, sets=("memory",))
    (row,) = measure.measure_cases([case], run, 1.0)
    assert len(row.timings["SDPA, plain"].turns) >= turns
    assert row.timings["SDPA, plain"].once == (turns == 1)
    assert not row.timings["regard native"].once
    assert len(row.extra_bytes) == measured


@pytest.mark.usefixtures("fake")
def test_what_takes_a_minute_is_called_once_for_its_time_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def apart(case: Case, method: Method) -> tuple[int, float]:
        called.append(method.name)
        return 7, 61.0

    monkeypatch.setattr(measure, "memory_growth", apart)
    monkeypatch.setattr(Method, "call", lambda method, inputs: pytest.fail("called here too"))
    case = Case("statistics", TINY, CAUSAL, seen=SIX, sets=("goals", "memory", "alone"))
    (row,) = measure.measure_cases([case], "goals", 1.0)
    assert called == ["regard native"]
    assert row.timings == {"regard native": Timing((61.0,))}
    assert row.extra_bytes == {"regard native": 7}


@pytest.mark.usefixtures("fake")
def test_eager_has_one_turn_beside_those_that_see(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def apart(case: Case, method: Method) -> tuple[int, float]:
        measured.append(method.name)
        return 7, 61.0

    monkeypatch.setattr(measure, "memory_growth", apart)
    case = Case("statistics", TINY, seen=SIX, sets=("goals", "memory"), also=(EAGER.name,))
    (row,) = measure.measure_cases([case], "goals", 1.0)
    turns = {name: timing.once for name, timing in row.timings.items()}
    assert turns == {"SDPA": True, "eager": True, "native, plain": False, "regard native": False}
    assert measured == ["eager", "regard native"]


def test_times_are_means_of_bursts_in_turns() -> None:
    now = itertools.count()
    ticks = {"fast": 1, "slow": 3}

    def sleeper(name: str) -> Method:
        def once() -> tuple[torch.Tensor]:
            for _ in range(ticks[name] - 1):
                next(now)
            return (torch.zeros(()),)

        return Method(name, lambda inputs: once, lambda case: None)

    case = Case("plain", TINY)
    timings = time_methods(case, [sleeper("fast"), sleeper("slow")], 12, lambda: float(next(now)))
    assert timings == {"fast": Timing((1.0,) * 3), "slow": Timing((3.0,) * 3)}
    assert CaseResult(case, timings).speedup("fast", "slow") == 3

    calls = itertools.count()
    short = Method("short", lambda inputs: lambda: (torch.tensor(next(calls)),), lambda case: None)
    small = itertools.count()
    time_methods(case, [short], 0.6 * measure.BURST, lambda: next(small) * measure.BURST / 10)
    assert next(calls) == 2 + 3 * 10


class Clock:
    """A clock that only methods move, each call by so many seconds."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def method(self, name: str, seconds: float) -> Method:
        def once() -> tuple[torch.Tensor]:
            self.now += seconds
            self.calls.append(name)
            return (torch.zeros(()),)

        return Method(name, lambda inputs: once, lambda case: None)


@pytest.mark.parametrize(
    ("slow", "turns"),
    [(30.0, 0), (1.9, 0), (1.7, 2), (1.0, 3), (0.25, 5)],
    ids=["far too long", "too long", "two fit into twice the time", "three do", "many do"],
)
def test_calls_that_are_long_are_few(slow: float, turns: int) -> None:
    clock, case = Clock(), Case("plain", TINY)
    timings = time_methods(case, [clock.method("ours", 0.2), clock.method("slow", slow)], 2.0, clock)
    assert clock.calls.count("slow") == clock.calls.count("ours") == 1 + turns
    assert [len(timing.turns) for timing in timings.values()] == [max(turns, 1)] * 2
    assert timings["slow"].once == (turns == 0)
    assert timings["slow"].seconds == pytest.approx(slow)
    assert CaseResult(case, timings).speedup("ours", "slow") == pytest.approx(slow / 0.2)


def test_an_arm_that_no_goal_asks_about_has_one_turn_and_costs_the_others_none() -> None:
    clock, case = Clock(), Case("features", TINY, twist=SINKS)
    methods = [clock.method("plain", 0.5), clock.method("ours", 0.6), clock.method("SDPA", 30.0)]
    timings = time_methods(case, methods, 1.5, clock, once={"SDPA"})
    assert clock.calls.count("SDPA") == len(timings["SDPA"].turns) == 1
    assert [len(timings[name].turns) for name in ("plain", "ours")] == [2, 2]
    assert CaseResult(case, timings).speedup("ours", "SDPA") == pytest.approx(50)


def test_ceilings_are_measured_where_a_table_asks(fake: FakeCore) -> None:
    assert measure.ceiling(Case("plain", TINY)) == 1e9
    assert measure.ceiling(Case("plain", TINY, dtype=torch.bfloat16)) == 2e9
    decode = Case("decode", GROUPED, keys=(1, 2, 40, 8))
    assert measure.ceiling(decode) == decode.read_bytes == 2 * 2 * 40 * 8 * 4
    assert measure.ceiling(Case("window", TINY, "window 8")) is None


@pytest.mark.usefixtures("without_native")
def test_without_the_core_everything_says_why() -> None:
    case = Case("plain", TINY)
    (row,) = measure.measure_cases([case], "quick", 0)
    assert row.reasons["regard native"] == "the core is not built"
    assert row.ceiling is None
    assert list(row.timings) == ["SDPA", "regard chunked"]
    assert [method.name for method in methods_of(Case("isa", TINY))] == ["SDPA", "regard native"]
    assert "regard native did not run: the core is not built" in " ".join(reasons([row]))


def test_an_instruction_set_is_forced_for_its_own_calls_only(fake: FakeCore) -> None:
    case = Case("isa", TINY, passes=BOTH)
    methods = methods_of(case)
    assert [method.name for method in methods] == ["SDPA", "native avx512", "native avx2"]
    methods[2].call(Inputs.of(case))()
    assert (fake.used, fake.chosen) == (["avx2", "best"], "best")


def test_what_does_not_fit_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard_benchmarks.methods.free_memory", lambda: 2**30)
    assert EAGER.why_not(Case("plain", (1, 4, 8192, 64))) == "needs 3.0 GiB, here are 1.0"
    assert EAGER.why_not(Case("plain", (1, 4, 512, 64))) is None


def test_memory_is_that_of_the_case(fake: FakeCore) -> None:
    (case,) = (case for case in CASES if case.section == "bias")
    grown, took = measure.memory_growth(case, EAGER) or (0, 0.0)
    assert took > 0
    assert 2 < grown / case.map_bytes < 12  # several maps, and the gradient
    assert measure.memory_growth(case, Method("no such method", EAGER.prepare, EAGER.why_not)) is None


@pytest.mark.usefixtures("fake")
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cases = (
        Case("plain", TINY, sets=("quick",)),
        Case("decode", GROUPED, keys=(1, 2, 40, 8), sets=("quick",)),
        Case("plain", TINY, CAUSAL),
    )
    monkeypatch.setattr(bench, "CASES", cases)
    monkeypatch.setattr(bench, "SECONDS", {"quick": 0.0})
    out, path, drawing = io.StringIO(), tmp_path / "b.json", tmp_path / "b.svg"
    console = Console(file=out, width=100)
    bench.main(["--quick", "--json", str(path), "--picture", str(drawing)], console)
    assert torch.__version__ in out.getvalue()
    assert "best kernels" in out.getvalue()
    assert [r["name"] for r in json.loads(path.read_text())["rows"]] == [c.name for c in cases[:2]]
    assert cases[0].short in drawing.read_text("utf-8")

    out.truncate(0)
    bench.main(["--from", str(path), "--only", "decode"], console)
    assert "Decoding" in out.getvalue()
    assert "Plain" not in out.getvalue()


@pytest.mark.usefixtures("fake")
def test_ctrl_c_shows_what_was_measured_and_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tuple(Case("plain", TINY, mask, sets=("goals",)) for mask in ("full", CAUSAL, "window 7"))
    monkeypatch.setattr(bench, "CASES", cases)
    monkeypatch.setitem(bench.SECONDS, "goals", 0.0)
    time_all, pressed = measure.time_methods, [*cases]

    def until_the_second(case: Case, *rest: object, **more: object) -> object:
        pressed.remove(case)
        if case is cases[1]:
            raise KeyboardInterrupt
        return time_all(case, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(measure, "time_methods", until_the_second)
    path, drawing = tmp_path / "b.json", tmp_path / "b.svg"
    command = ["bench", "--goals", "--json", str(path), "--picture", str(drawing)]
    assert cli.main(command) == 130
    text = "Interrupted after 1 of 3 cases."
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == text
    assert cases[0].short in out and cases[1].short not in out
    assert pressed == [cases[2]]
    whole = json.loads(path.read_text("utf-8"))
    assert whole["machine"]["interrupted"] == "after 1 of 3 cases"
    assert [row["name"] for row in whole["rows"]] == [cases[0].name]
    assert all(word in drawing.read_text("utf-8") for word in (*text.split(), cases[0].short))

    pressed[:] = cases
    assert cli.main(["bench", "--goals", "--markdown"]) == 130
    assert f"\n{text}\n" in capsys.readouterr().out
    bench.main(["--from", str(path)])  # to show it is no interruption
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--threads", "0"], "--threads: got 0; allowed: 1 or more. Leave it out"),
        (["--json", "/nowhere/at/all.json"], "--json: got /nowhere/at/all.json; allowed: a path in"),
        (["--picture", "/nowhere/a.svg"], "--picture: got /nowhere/a.svg; allowed: a path in"),
        (["--only", "no such case"], "--only: got no such case; allowed: words of a case's name in the def"),
    ],
)
def test_refusals(arguments: Sequence[str], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        bench.main(arguments)
    assert str(caught.value).startswith(text)
