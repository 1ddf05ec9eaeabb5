"""A bar chart of the speeds relative to SDPA, for each dtype and pass, as one self-contained SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from regard_benchmarks import goals
from regard_benchmarks.flex import FLEX
from regard_benchmarks.measure import CaseResult
from regard_benchmarks.methods import CHUNKED, EAGER, NATIVE, SDPA, SDPA_PLAIN
from regard_benchmarks.report import headlines
from regard_benchmarks.section_tables import seconds
from regard_benchmarks.sections import TITLES

WIDTH, LINE, BAR, HEAD = 820, 22, 14, 58
LEFT, RIGHT = 270, 215
"""Width for the names of cases, and for the text after a bar."""

MARKS = {EAGER.name: "eager", FLEX.name: "flex"}
"""Methods that are drawn as a small mark beside the bar, and the style of the mark."""

# Colours that are distinct for any colour vision, on white and on near-black.
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; } .head { font-size: 13px; font-weight: 600; }
  .quiet { fill: #57606a; } .small { font-size: 11px; }
  .background { fill: #ffffff; } .bar { fill: #2f6fdb; } .slower { fill: #9db4d8; }
  .sdpa { stroke: #24292f; stroke-width: 1.2; } .grid { stroke: #d0d7de; stroke-width: 1; }
  .eager { fill: #d2691e; } .flex { fill: #8250a8; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .quiet { fill: #9aa4ae; } .background { fill: #0d1117; }
    .bar { fill: #5b9bff; } .slower { fill: #41597f; } .sdpa { stroke: #e6edf3; }
    .grid { stroke: #30363d; } .eager { fill: #f0955a; } .flex { fill: #c297e6; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """A bar: a method of ours in a case, and the marks beside it."""

    result: CaseResult
    method: str
    speed: float
    """Relative to SDPA: to its fastest arrangement, where there are several."""
    marks: tuple[tuple[str, float], ...]
    base: str
    """The method of SDPA that the speed is relative to."""

    @property
    def once(self) -> bool:
        """Whether the speed was measured in a single turn."""
        return goals.has_single_turn(self.result, (self.method, self.base))

    @property
    def label(self) -> str:
        """The case, and the method where a case has several bars."""
        case = self.result.case
        return f"{case.short}, {self.method.split()[1]}" if case.section == "isa" else case.short


def speed_chart(machine: Mapping[str, str], results: Sequence[CaseResult]) -> str:
    """An SVG of every case that SDPA and a backend of ours have both run.

    >>> speed_chart({"processor": "p", "threads": "1 of 1", "kernels": "none", "torch": "2", "python": "3",
    ...              "system": "s", "date": "d", "load before": "0", "load after": "0"}, [])[:4]
    '<svg'
    """
    panels = [(section, title, bars) for section in TITLES for title, bars in _panels(section, results)]
    body: list[str] = []
    top = 62
    for section, title, bars in panels:
        most = max(bar.speed for other, _, of_other in panels if other == section for bar in of_other)
        body += _panel(title, bars, results, top, max(most, 1.2))
        top += HEAD + LINE * len(bars)
    height = top + 44
    return (
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
                f' height="{height}" role="img" aria-label="Speed of attention in multiples of PyTorch\'s SDPA">',
                f"<style>{STYLE}</style>",
                f'<rect class="background" width="{WIDTH}" height="{height}" rx="8"/>',
                _text(20, 30, "Speed in multiples of PyTorch’s SDPA: longer is faster", "title"),
                *_legend([bar for _, _, bars in panels for bar in bars]),
                *body,
                *(
                    _text(20, height - 12 - 15 * i, line, "quiet small")
                    for i, line in enumerate(reversed(_wrapped(" ".join(headlines(machine)))))
                ),
                "</svg>",
            ]
        )
        + "\n"
    )


def _panels(section: str, results: Sequence[CaseResult]) -> list[tuple[str, list[Bar]]]:
    """The bars of a section, by pass and dtype."""
    panels: dict[str, list[Bar]] = {}
    for result in results:
        if result.case.section == section and (bars := _bars_of(result)):
            title = f"{TITLES[section]}: {result.case.passes}, {result.case.kind}"
            panels.setdefault(title, []).extend(bars)
    return list(panels.items())


def _bars_of(result: CaseResult) -> list[Bar]:
    base = SDPA.name if SDPA.name in result.timings else goals.best_sdpa(result)
    if base is None or base == SDPA_PLAIN.name:
        return []
    if result.case.section == "isa":
        ours = [name for name in result.timings if name.startswith("native ")]
    else:
        ours = [name for name in (NATIVE.name, CHUNKED.name) if name in result.timings][:1]
    marks = tuple((name, speed) for name in MARKS if (speed := result.speedup(name, base)))
    return [Bar(result, name, result.speedup(name, base) or 0.0, marks, base) for name in ours]


def _panel(title: str, bars: Sequence[Bar], results: Sequence[CaseResult], top: int, most: float) -> Iterator[str]:
    scale = (WIDTH - LEFT - RIGHT) / most
    low, high = top + 42, top + 42 + LINE * len(bars)
    yield _text(20, top + 16, title, "head")
    if len(bars) > 1 and bars[0].result.case.section == "plain":
        mean = goals.geometric_mean(bar.speed for bar in bars)
        once = sum(bar.once for bar in bars)
        text = f"geometric mean {mean:.2f}×" + (f", {once} of {len(bars)} once" if once else "")
        yield _text(WIDTH - 20, top + 16, text, "head", "end")
    for value in _grid_lines(most):
        x, kind = LEFT + value * scale, "sdpa" if value == 1 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{low - 3}" y2="{high}"/>'
        if value:
            text = "SDPA" if value == 1 else f"{value}×"
            yield _text(x, low - 7, text, "quiet small", "middle")
    for i, bar in enumerate(bars):
        yield from _draw_bar(bar, results, low + LINE * i, scale)


def _grid_lines(most: float) -> list[int]:
    """The values of the grid lines: 1, and at most six steps of 1, 2 or 5 times a power of ten.

    >>> _grid_lines(3.4), _grid_lines(32.0)
    ([0, 1, 2, 3], [0, 1, 10, 20, 30])
    """
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if most / (s * 10**p) < 6)
    return sorted({1, *range(0, int(most) + 1, step)})


def _draw_bar(bar: Bar, results: Sequence[CaseResult], y: int, scale: float) -> Iterator[str]:
    middle, speed = y + LINE / 2, bar.speed
    yield _text(LEFT - 10, middle + 4, bar.label, "", "end")
    yield (
        f'<rect class="{"bar" if speed >= 1 else "slower"}" x="{LEFT}" y="{middle - BAR / 2:.1f}"'
        f' height="{BAR}" rx="2" width="{max(speed * scale, 1):.1f}"><title>{escape(bar.result.case.name)}:'
        f" {escape(bar.method)}, {speed:.2f}× SDPA</title></rect>"
    )
    for name, value in bar.marks:
        x = LEFT + value * scale
        yield (
            f'<circle class="{MARKS[name]}" cx="{x:.1f}" cy="{middle:.1f}" r="3.5">'
            f"<title>{escape(name)}: {value:.2f}× SDPA</title></circle>"
        )
    x = LEFT + max(1, speed, *(value for _, value in bar.marks)) * scale + 8
    text = " · ".join((f"{speed:.2f}×", *_rates(bar, results), *(["once"] if bar.once else [])))
    yield _text(x, middle + 4, text, "small")


def _rates(bar: Bar, results: Sequence[CaseResult]) -> Iterator[str]:
    """The absolute speed, and its share of the machine's peak where that was measured."""
    result, name = bar.result, bar.method
    if result.case.section == "overhead":
        yield seconds(result.timings[name].seconds)
    elif result.case.section == "decode":
        yield f"{result.case.read_bytes / result.timings[name].seconds / 1e9:.1f} GB/s"
        if (share := goals.share_of_bandwidth(result, name)) is not None:
            yield f"{share:.0%} of bandwidth"
    else:
        yield f"{result.case.flops / result.timings[name].seconds / 1e9:,.0f} GFLOP/s"
        if (share := goals.share_of_peak(result, results, name)) is not None:
            yield f"{share:.0%} of peak"


def _legend(bars: Sequence[Bar]) -> Iterator[str]:
    marks = dict.fromkeys(name for bar in bars for name, _ in bar.marks)
    ours = dict.fromkeys(bar.method for bar in bars if bar.result.case.section != "isa")
    x = 20
    for name, style, round_by in (
        (" or ".join(ours) or "regard", "bar", 2),
        *((name, MARKS[name], 5) for name in marks),
    ):
        yield f'<rect class="{style}" x="{x}" y="43" width="10" height="10" rx="{round_by}"/>'
        yield _text(x + 15, 52, name, "quiet small")
        x += 35 + 7 * len(name)


def _wrapped(line: str, most: int = 118) -> list[str]:
    """A long text as lines of at most so many characters."""
    lines = [""]
    for word in line.split():
        if len(lines[-1]) + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
