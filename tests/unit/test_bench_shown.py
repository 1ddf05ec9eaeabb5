"""What the benchmark makes of its figures: goals, tables, a picture, and a file."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from rich.console import Console

from regard.errors import OptionError
from regard_benchmarks import bench, goals, json_files, section_tables
from regard_benchmarks.cases import BOTH, CAUSAL, FORWARD, SEEN, WIDE, Case
from regard_benchmarks.chart import speed_chart
from regard_benchmarks.measure import CaseResult, Timing
from regard_benchmarks.methods import NATIVE, NATIVE_PLAIN
from regard_benchmarks.report import markdown, sections, terminal
from regard_benchmarks.sections import CASES, GOAL_SHAPES, TITLES

TINY = (1, 2, 40, 8)
MACHINE = {
    "processor": "a <CPU>",
    "threads": "1 of 2",
    "kernels": "avx2 kernels",
    "load before": "0.1",
    "load after": "1.1",
    "torch": "2",
    "python": "3",
    "system": "an OS",
    "date": "2026-01-01",
    "run": "goals",
}


def row(case: Case, seconds: dict[str, float], **more: object) -> CaseResult:
    result = CaseResult(case, {name: Timing((s, s, s)) for name, s in seconds.items()})
    return dataclasses.replace(result, **more)  # pyright: ignore[reportArgumentType]


def example_results() -> list[CaseResult]:
    """Figures of every section, as a fast native backend would give them."""
    results: list[CaseResult] = []
    for shape, mask in itertools.product(GOAL_SHAPES, ("full", CAUSAL)):
        for dtype, passes in itertools.product((torch.float32, torch.bfloat16), (FORWARD, BOTH)):
            case = Case("plain", shape, mask, dtype, passes)
            seconds = {"SDPA": case.flops / 1e9, "eager": case.flops / 5e8, NATIVE.name: case.flops / 2e9}
            results.append(row(case, seconds, ceiling=2.5e9))
    wide = Case("features", (1, 8, 4096, 64), passes=BOTH, twist=WIDE)
    apart = dataclasses.replace(wide, twist="", mask="documents 512")
    cost = {NATIVE_PLAIN.name: 1.0, NATIVE.name: 1.5, "SDPA, plain": 2.0, "SDPA": 8.0}
    results.append(row(wide, cost, extra_bytes={NATIVE.name: wide.map_bytes // 4}))
    results.append(row(apart, {**cost, NATIVE.name: 0.25}))
    bias = next(case for case in CASES if case.section == "bias")
    results.append(row(bias, {"SDPA": 2.0, NATIVE.name: 1.0}, extra_bytes={"SDPA": 4 * bias.map_bytes}))
    decode = next(case for case in CASES if case.section == "decode")
    results.append(
        row(decode, {"SDPA as rows": 2.0, "SDPA repeated": 4.0, NATIVE.name: 1.0}, ceiling=decode.read_bytes * 1.25)
    )
    results += [row(Case("window", (1, 2, n, 64), "window 512"), {NATIVE.name: n**1.5}) for n in (32768, 65536)]
    cost = {"SDPA": 3.0, NATIVE_PLAIN.name: 1.0, NATIVE.name: 1.25}
    for case in (case for case in CASES if case.section == "statistics" and "goals" in case.sets):
        memory = {"eager": 90, NATIVE.name: 2} if case.also else {}
        result = row(case, {**cost, **({"eager": 10.0} if case.also else {})}, extra_bytes=memory)
        if case.alone:
            result = row(case, {NATIVE.name: 59.0}, extra_bytes={NATIVE.name: 257 << 20})
        results.append(result)
    results.append(row(Case("square", (1, 1, 131072, 64)), {"regard Weights": 2e-3}))
    results.append(row(Case("overhead", (1, 1, 16, 64)), {"SDPA": 15e-6, NATIVE.name: 30e-6}))
    results.append(
        row(Case("isa", TINY, CAUSAL), {"SDPA": 1.0, "native avx2": 2.0}, reasons={"native neon": "is not here"})
    )
    return results


def test_goals_are_judged_by_their_worst() -> None:
    by_name = {result.what: result for result in goals.goal_results(example_results())}

    def verdict(what: str) -> tuple[str, str | None, bool | None]:
        (result,) = [v for name, v in by_name.items() if what in name]
        return result.goal, result.value, result.met

    assert verdict("forward float32: geometric mean") == ("≥ 1.60×", "2.00×", True)
    assert verdict("forward bfloat16: geometric mean") == ("≥ 3.00×", "2.00×", False)
    assert verdict("forward + backward bfloat16: least") == ("≥ 1.20×", "2.00×", True)
    assert verdict("forward float32: least share of FMA peak") == ("≥ 90%", "80%", False)
    assert verdict("read bandwidth") == ("≥ 80%", "80%", True)
    assert verdict("in the best SDPAs") == ("≥ 1.50×", "2.00×", True)
    assert verdict("dv = 2 d, float32: time of plain") == ("≤ 1.25×", "1.00×", True)
    assert verdict("dv = 2 d, float32: extra memory") == ("≤ 0.50", "0.25", True)
    assert verdict("documents, float32: time of plain attention, for each") == ("≤ 1.25×", "2.00×", False)
    assert verdict("n doubles") == ("≤ 2.20×", "2.83×", False)
    assert verdict("AVX2") == ("≥ 0.90×", "0.50×", False)
    assert verdict("overhead") == ("≤ 25.0 µs", "30.0 µs", False)
    seeing = {what: (v.value, v.met) for what, v in by_name.items() if what.startswith(SEEN)}
    assert seeing == {
        "four statistics, float32: time of plain attention": ("1.25×", False),
        "four statistics, float32: least, in SDPAs that see nothing": ("2.40×", True),
        "four statistics, bfloat16: time of plain attention": ("1.25×", False),
        "four statistics, bfloat16: least, in SDPAs that see nothing": ("2.40×", True),
        "four statistics, ascending scores: time of plain attention": ("1.25×", True),
        "six statistics: time of plain attention": ("1.25×", True),
        "entropy penalty: time of plain attention": ("1.25×", False),
        "six statistics, full: least, in eagers": ("8.00×", True),
        "six statistics, causal: least, in eagers": ("8.00×", False),
        "six statistics: least extra memory of eager, in ours": ("45.0×", True),
        "six statistics, n = 131072: time": ("59.0 s", True),
        "six statistics, n = 131072: extra memory": ("257 MiB", False),
    }
    assert verdict("256×256 weights") == ("≤ 3.00 ms", "2.00 ms", True)
    assert all(by_name[what].cases == by_name[what].cases_of_goal for what in seeing)
    assert by_name["four statistics, float32: time of plain attention"].cases == 6
    assert by_name["six statistics: time of plain attention"].cases == 4
    cases = {what: (result.cases, result.cases_of_goal) for what, result in by_name.items()}
    assert cases["forward float32: geometric mean, in SDPAs"] == (12, 12)
    assert cases["forward float32: least share of FMA peak, n ≥ 2048"] == (6, 6)
    assert cases["window 512: time when n doubles"] == (1, 4)
    assert cases["sinks, bfloat16: time of plain attention"] == (0, 1)
    empty = goals.goal_results([])
    assert [result.what for result in empty] == [*by_name]
    assert {(result.value, result.met, result.cases) for result in empty} == {(None, None, 0)}
    assert all(result.cases_of_goal for result in empty)


def test_the_geometric_mean_is_the_same_from_either_side() -> None:
    ratios = [0.5, 3.0, 1.7, 12.0]
    mean = goals.geometric_mean(ratios)
    assert mean**4 == pytest.approx(0.5 * 3.0 * 1.7 * 12.0)
    assert goals.geometric_mean([1 / ratio for ratio in ratios]) == pytest.approx(1 / mean)


def test_the_peak_is_the_greatest_of_its_dtype() -> None:
    rows = [row(Case("plain", TINY), {NATIVE.name: 1.0}, ceiling=value) for value in (1.0, 3.0)]
    rows.append(row(Case("plain", TINY, dtype=torch.bfloat16), {NATIVE.name: 1.0}, ceiling=9.0))
    assert goals.peak(rows, "float32") == 3.0
    assert goals.share_of_peak(rows[0], rows) == rows[0].case.flops / 3.0


def test_tables_say_it_plainly() -> None:
    tables = {title: (heads, cells) for title, heads, cells in sections(MACHINE, example_results())}
    heads, cells = tables["Plain attention: forward, float32"]
    assert heads == ["case", "SDPA", "eager", "regard native", "GFLOP/s", "of FMA peak"]
    assert cells[0][0] == "1×12×128×64 full"
    assert cells[0][2:] == ["101 ms ±0%  0.50×", "25.2 ms ±0%  2.00×", "2", "80 %"]
    heads, cells = tables["Plain attention: regard native, in SDPAs"]
    assert cells[0][:4] == ["forward, float32", "12", "2.00×", "2.00×"]
    (_, cells) = tables["Overhead of a feature: 1×8×4096×64 full, forward + backward"]
    assert [cell[3:5] for cell in cells] == [["1.50×", "1.00×"], ["0.25×", "2.00×"]]
    assert cells[0][-1] == "4.00×"
    heads, cells = tables["Overhead of statistics: forward, bfloat16"]
    assert heads == ["case", "SDPA", "native, plain", "regard native", "÷ plain"]
    assert cells[0][3:] == ["1.25 s ±0%  2.40×", "1.25×"]
    (_, cells) = tables["Memory of a learned dense bias"]
    assert cells[0][-1] == "4.00×"
    (_, cells) = next(table for title, table in tables.items() if title.startswith("Decoding"))
    assert cells[0][-2:] == ["80 %", "2.00×"]
    (_, cells) = next(table for title, table in tables.items() if title.startswith("A window"))
    assert [cell[1].partition("±0%")[2] for cell in cells] == ["", "  2.83×"]
    assert [*tables][-1] == "Goals"
    heads, cells = tables["Goals"]
    assert heads == ["figure", "goal", "found", "cases", "reached"]
    assert ["call overhead", "≤ 25.0 µs", "30.0 µs", "1", "no"] in cells
    assert ["window 512: time when n doubles", "≤ 2.20×", "2.83×", "1 of 4", "no so far"] in cells
    assert ["sinks, float32: time of plain attention", "≤ 1.25×", "—", "0 of 1", "not measured"] in cells
    assert "Goals" not in {title for title, _, _ in sections({**MACHINE, "run": "quick"}, example_results())}


def test_a_figure_from_one_turn_says_so_wherever_it_stands(tmp_path: Path) -> None:
    rows = example_results()
    single = {"SDPA": Timing((4.0,)), NATIVE.name: Timing((1.0,))}
    rows[0] = dataclasses.replace(rows[0], timings=single)  # plain, forward, float32
    tables = {title: cells for title, _, cells in sections(MACHINE, rows)}
    assert tables["Plain attention: forward, float32"][0][1:4] == ["4.00 s once", "—", "1.00 s once  4.00×"]
    assert tables["Plain attention: regard native, in SDPAs"][0][1] == "12, 1 once"
    goals = {cells[0]: cells[3] for cells in tables["Goals"]}
    assert goals["forward float32: least, in SDPAs"] == "12, 1 once"
    assert goals["forward bfloat16: least, in SDPAs"] == "12"
    assert "'once' where a single turn" in markdown(MACHINE, rows)
    drawn = speed_chart(MACHINE, rows)
    assert drawn.count(" · once<") == 1
    assert drawn.count(", 1 of 12 once<") == 1
    json_files.write_results(tmp_path / "b.json", MACHINE, rows)
    written = json.loads((tmp_path / "b.json").read_text("utf-8"))
    first, second = (written["rows"][i]["timings"][NATIVE.name] for i in (0, 1))
    assert (first["spread"], first["once"]) == (None, True)
    assert (second["spread"], second["once"]) == (0.0, False)
    assert [result["once"] for result in written["goals"][:3]] == [1, 1, 0]


def test_a_ratio_of_arms_with_unlike_turns_is_that_of_their_medians() -> None:
    apart = CaseResult(Case("features", TINY), {"a": Timing((1.0, 2.0, 9.0)), "b": Timing((6.0,))})
    assert apart.speedup("a", "b") == 3.0
    assert apart.speedup("b", "a") == pytest.approx(1 / 3)


def test_they_are_printed_for_a_terminal_and_as_markdown() -> None:
    text = markdown(MACHINE, example_results())
    assert "| case | SDPA | eager | regard native | GFLOP/s | of FMA peak |" in text
    assert "a <CPU>, 1 of 2 threads, avx2 kernels, torch 2" in text
    assert "busy" not in text
    assert "busy: others ran here too" in markdown({**MACHINE, "load after": "1.4"}, example_results())
    for width in (80, 120):
        out = io.StringIO()
        terminal(Console(file=out, width=width), MACHINE, example_results())
        assert "native neon is not here" in out.getvalue()
        assert all(len(line) <= width for line in out.getvalue().splitlines())


def test_the_picture_is_one_svg_with_every_case_that_compares() -> None:
    rows = example_results()
    drawn = ET.fromstring(speed_chart(MACHINE, rows))
    words = [text for element in drawn.iter() if (text := (element.text or "").strip())]
    compared = [r for r in rows if "SDPA" in r.timings or r.case.section == "decode"]
    for result in compared:
        assert any(result.case.short in word for word in words)
        assert any(result.case.name in word for word in words)
    assert not any("window" in word for word in words)  # SDPA has none
    assert any("2.00× · 2 GFLOP/s · 80% of peak" in word for word in words)
    assert any("geometric mean 2.00×" in word for word in words)
    svg = "{http://www.w3.org/2000/svg}"
    bars = [e for e in drawn.iter(f"{svg}rect") if e.find(f"{svg}title") is not None]
    assert len(bars) == len(compared)
    edge = float(drawn.attrib["width"])
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) < edge for bar in bars)
    assert not re.search(r"(href|src|url\()", speed_chart(MACHINE, rows))
    assert "prefers-color-scheme: dark" in speed_chart(MACHINE, rows)


def test_figures_go_to_json_and_back(tmp_path: Path) -> None:
    path, rows = tmp_path / "bench.json", example_results()
    json_files.write_results(path, MACHINE, rows)
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"]
    machine, again = json_files.read_results(path)
    assert machine == MACHINE
    assert [result.case for result in again] == [result.case for result in rows]
    assert [result.reasons for result in again] == [result.reasons for result in rows]
    assert markdown(machine, again) == markdown(MACHINE, rows)
    written = json.loads(path.read_text())
    assert written["rows"][0]["name"] == rows[0].case.name
    assert {
        "what": "call overhead",
        "goal": "≤ 25.0 µs",
        "found": "30.0 µs",
        "met": False,
        "cases": 1,
        "cases_of_goal": 1,
        "once": 0,
    } in written["goals"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"rows": [{}], "machine": {}}'):
        with pytest.raises(OptionError, match=r"--from: got .*allowed: a file that --json wrote"):
            bench.main(["--from", write(tmp_path / "b.json", text)])


def test_every_section_has_a_view() -> None:
    assert set(section_tables.SECTION_TABLES) == set(TITLES)
