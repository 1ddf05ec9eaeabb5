"""The benchmark measures what it says, on cases small enough for a test."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from regard.errors import OptionError
from regard.lab import bench
from regard.lab.cases import ARMS, CASES, SEEN, SPECIALS, Arm, Case, Inputs, Row, Timing
from regard.lab.tables import markdown, sections, summary, terminal

TINY = (1, 2, 40, 8)
MACHINE = {"processor": "a CPU", "threads": "1 of 2", "load before": "0.1", "torch": "2", "python": "3",
           "system": "an OS", "date": "2026-01-01"}  # fmt: skip


@pytest.mark.parametrize("special", ["", *(s for s in SPECIALS if "dropout" not in s)])
@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("passes", ["forward", "forward + backward"])
def test_all_arms_compute_the_same(special: str, mask: str, passes: str) -> None:
    if special == "learned bias" and mask == "causal":
        pytest.skip("SDPA takes a bias or a causal mask")
    inputs = Inputs.of(Case(TINY, mask, torch.float32, passes, special))
    results = [arm.run(inputs) for arm in ARMS if not arm.why_not(inputs.case)]
    assert len(results) == (2 if special == SEEN else 3)
    for result in results[1:]:
        assert len(result) == len(results[0])
        for got, expected in zip(result, results[0], strict=True):
            if (
                got.dtype == torch.int64
            ):  # of top-8: in the eager formula, masked keys have indices too
                expected = torch.where(results[0][3] > 0, expected, -1)
            torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)


def test_dropout_runs_in_every_arm() -> None:
    inputs = Inputs.of(Case(TINY, "causal", torch.float32, "forward + backward", "dropout 0.1"))
    for arm in ARMS:
        out = arm.run(inputs)[0]
        assert out.shape == inputs.q.shape
        assert not torch.equal(out, arm.run(inputs)[0])


def test_cases_are_named_apart_and_every_special_is_measured() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.special for case in CASES if "default" in case.sets} == {"", *SPECIALS}
    assert all({"quick", "memory"} & set(case.sets) <= {"quick", "memory"} for case in CASES)
    assert all("default" in case.sets for case in CASES if case.sets)


def test_times_ratios_and_spread() -> None:
    now = itertools.count()
    ticks = {"fast": 1, "slow": 3}

    def sleeper(name: str) -> Arm:
        def forward(inputs: Inputs) -> tuple[torch.Tensor]:
            for _ in range(ticks[name] - 1):
                next(now)
            return (inputs.q,)

        return Arm(name, forward, lambda case: None)

    timings = bench.timed(
        Case(TINY), [sleeper("fast"), sleeper("slow")], 0, lambda: float(next(now))
    )
    assert timings == {"fast": Timing(1.0, 0.0, 1.0, 3), "slow": Timing(3.0, 0.0, 3.0, 3)}


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.lab.cases._memory", lambda: 2**30)
    (row,) = bench.measured([Case((1, 1, 64, 8), special=SEEN)], ARMS, 0, memory=False)
    assert row.reasons == {"SDPA": "never has the weights"}
    eager = ARMS[1]
    assert eager.why_not(Case((1, 4, 8192, 64))) == "needs 3.0 GiB, here are 1.0"
    assert eager.why_not(Case((1, 4, 512, 64))) is None


def rows() -> list[Row]:
    slow, fast = Timing(0.5, 0.02, 2.5, 9), Timing(0.2, 0.01, 1.0, 9)
    return [
        Row(Case(TINY), {"SDPA": fast, "regard chunked": slow}, {"SDPA": 2**20, "regard chunked": 5 * 2**20}),
        Row(Case(TINY, special=SEEN), {"eager": slow, "regard chunked": Timing(0.2, 0.01, 0.4, 9)}, {},
            {"SDPA": "never has the weights"}),
    ]  # fmt: skip


def test_tables_say_it_plainly() -> None:
    (title, heads, cells), (memory, _, sizes) = sections(rows(), ARMS)
    assert title == "forward, float32"
    assert heads == ["case", "SDPA", "eager", "regard chunked"]
    assert cells[0] == ["1×2×40×8 full", "200 ms ±1%", "—", "500 ms ±2%  2.50×"]
    assert memory == "extra peak memory"
    assert sizes[0][1:] == ["1 MiB", "5 MiB"]
    assert summary(rows(), ARMS) == [
        "regard chunked takes 2.50× the time of SDPA for plain attention; 0.40× the time of eager for "
        "attention with statistics."
    ]
    text = markdown(MACHINE, rows(), ARMS)
    assert "| case | SDPA | eager | regard chunked |" in text
    assert "a CPU, 1 of 2 threads, torch 2" in text
    for width in (80, 120):
        out = io.StringIO()
        terminal(Console(file=out, width=width), MACHINE, rows(), ARMS)
        assert "500 ms ±2%  2.50×" in out.getvalue()
        assert "never has the weights" in out.getvalue()


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    bench.write(path, MACHINE, rows())
    read = json.loads(path.read_text())
    assert read["machine"] == MACHINE
    assert read["rows"][0]["timings"]["SDPA"] == dataclasses.asdict(Timing(0.2, 0.01, 1.0, 9))
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        bench, "CASES", (Case(TINY, sets=("quick",)), Case(TINY, "causal", sets=()))
    )
    monkeypatch.setattr(bench, "QUICK_SECONDS", 0.0)
    out, path = io.StringIO(), tmp_path / "b.json"
    bench.main(["--quick", "--json", str(path)], Console(file=out, width=100))
    assert torch.__version__ in out.getvalue()
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == [Case(TINY).name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "0"], "--threads: got 0; allowed: 1 or more. Leave it out"),
        (["--json", "/nowhere/at/all.json"], "--json: got /nowhere/at/all.json; allowed: a path in"),
    ],
)  # fmt: skip
def test_refusals(arguments: list[str], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        bench.main(arguments)
    assert str(caught.value).startswith(said)
