"""The speeds as a picture: bars in SDPAs, for each dtype and pass, as one SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from regard_benchmarks import goals as figures
from regard_benchmarks.flex import FLEX
from regard_benchmarks.implementations import CHUNKED, EAGER, NATIVE, SDPA, SDPA_PLAIN
from regard_benchmarks.measure import Row
from regard_benchmarks.report import headlines
from regard_benchmarks.section_tables import seconds
from regard_benchmarks.sections import TITLES

WIDTH, LINE, BAR, HEAD = 820, 22, 14, 58
LEFT, RIGHT = 270, 215
"""Room for the names of cases, and for what stands after a bar."""

MARKS = {EAGER.name: "eager", FLEX.name: "flex"}
"""Arms that a small mark on the bar's line stands for, and its style."""

# Colours that a reader with any colour vision tells apart, on white and on near-black.
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; } .head { font-size: 13px; font-weight: 600; }
  .quiet { fill: #57606a; } .small { font-size: 11px; }
  .paper { fill: #ffffff; } .bar { fill: #2f6fdb; } .slower { fill: #9db4d8; }
  .one { stroke: #24292f; stroke-width: 1.2; } .grid { stroke: #d0d7de; stroke-width: 1; }
  .eager { fill: #d2691e; } .flex { fill: #8250a8; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .quiet { fill: #9aa4ae; } .paper { fill: #0d1117; }
    .bar { fill: #5b9bff; } .slower { fill: #41597f; } .one { stroke: #e6edf3; }
    .grid { stroke: #30363d; } .eager { fill: #f0955a; } .flex { fill: #c297e6; }
  }
"""


@dataclass(frozen=True)
class Entry:
    """A bar: an arm of ours in a case, and the marks that stand on its line."""

    row: Row
    arm: str
    speed: float
    """In SDPAs: of its fastest arrangement, where there are several."""
    marks: tuple[tuple[str, float], ...]

    base: str
    """The arm of SDPA that this is in multiples of."""

    @property
    def once(self) -> bool:
        """Whether the bar stands on a single turn."""
        return figures.once(self.row, (self.arm, self.base))

    @property
    def label(self) -> str:
        """The case, and the arm where a case has several bars."""
        case = self.row.case
        return f"{case.short}, {self.arm.split()[1]}" if case.section == "isa" else case.short


def picture(machine: Mapping[str, str], rows: Sequence[Row]) -> str:
    """An SVG of every case that SDPA and a backend of ours have both run.

    >>> picture({"processor": "p", "threads": "1 of 1", "kernels": "none", "torch": "2", "python": "3",
    ...          "system": "s", "date": "d", "load before": "0", "load after": "0"}, [])[:4]
    '<svg'
    """
    panels = [(section, title, entries) for section in TITLES for title, entries in _panels(section, rows)]
    body: list[str] = []
    top = 62
    for section, title, entries in panels:
        most = max(entry.speed for other, _, those in panels if other == section for entry in those)
        body += _panel(title, entries, rows, top, max(most, 1.2))
        top += HEAD + LINE * len(entries)
    height = top + 44
    return (
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
                f' height="{height}" role="img" aria-label="Speed of attention in multiples of PyTorch\'s SDPA">',
                f"<style>{STYLE}</style>",
                f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
                _text(20, 30, "Speed in multiples of PyTorch’s SDPA: longer is faster", "title"),
                *_legend([entry for _, _, entries in panels for entry in entries]),
                *body,
                *(
                    _text(20, height - 12 - 15 * i, line, "quiet small")
                    for i, line in enumerate(reversed(_folded(" ".join(headlines(machine)))))
                ),
                "</svg>",
            ]
        )
        + "\n"
    )


def _panels(section: str, rows: Sequence[Row]) -> list[tuple[str, list[Entry]]]:
    """The bars of a section, by pass and dtype."""
    found: dict[str, list[Entry]] = {}
    for row in rows:
        if row.case.section == section and (entries := _entries(row)):
            title = f"{TITLES[section]}: {row.case.passes}, {row.case.kind}"
            found.setdefault(title, []).extend(entries)
    return list(found.items())


def _entries(row: Row) -> list[Entry]:
    base = SDPA.name if SDPA.name in row.timings else figures.best_sdpa(row)
    if base is None or base == SDPA_PLAIN.name:
        return []
    if row.case.section == "isa":
        ours = [name for name in row.timings if name.startswith("native ")]
    else:
        ours = [name for name in (NATIVE.name, CHUNKED.name) if name in row.timings][:1]
    marks = tuple((name, speed) for name in MARKS if (speed := row.times(name, base)))
    return [Entry(row, name, row.times(name, base) or 0.0, marks, base) for name in ours]


def _panel(title: str, entries: Sequence[Entry], rows: Sequence[Row], top: int, most: float) -> Iterator[str]:
    scale = (WIDTH - LEFT - RIGHT) / most
    low, high = top + 42, top + 42 + LINE * len(entries)
    yield _text(20, top + 16, title, "head")
    if len(entries) > 1 and entries[0].row.case.section == "plain":
        mean = figures.geomean(entry.speed for entry in entries)
        once = sum(entry.once for entry in entries)
        said = f"geometric mean {mean:.2f}×" + (f", {once} of {len(entries)} once" if once else "")
        yield _text(WIDTH - 20, top + 16, said, "head", "end")
    for place in _places(most):
        x, kind = LEFT + place * scale, "one" if place == 1 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{low - 3}" y2="{high}"/>'
        if place:
            said = "SDPA" if place == 1 else f"{place}×"
            yield _text(x, low - 7, said, "quiet small", "middle")
    for i, entry in enumerate(entries):
        yield from _bar(entry, rows, low + LINE * i, scale)


def _places(most: float) -> list[int]:
    """Where lines stand: at 1, and at most six steps of 1, 2 or 5 times a power of ten.

    >>> _places(3.4), _places(32.0)
    ([0, 1, 2, 3], [0, 1, 10, 20, 30])
    """
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if most / (s * 10**p) < 6)
    return sorted({1, *range(0, int(most) + 1, step)})


def _bar(entry: Entry, rows: Sequence[Row], y: int, scale: float) -> Iterator[str]:
    middle, speed = y + LINE / 2, entry.speed
    yield _text(LEFT - 10, middle + 4, entry.label, "", "end")
    yield (
        f'<rect class="{"bar" if speed >= 1 else "slower"}" x="{LEFT}" y="{middle - BAR / 2:.1f}"'
        f' height="{BAR}" rx="2" width="{max(speed * scale, 1):.1f}"><title>{escape(entry.row.case.name)}:'
        f" {escape(entry.arm)}, {speed:.2f}× SDPA</title></rect>"
    )
    for name, value in entry.marks:
        x = LEFT + value * scale
        yield (
            f'<circle class="{MARKS[name]}" cx="{x:.1f}" cy="{middle:.1f}" r="3.5">'
            f"<title>{escape(name)}: {value:.2f}× SDPA</title></circle>"
        )
    x = LEFT + max(1, speed, *(value for _, value in entry.marks)) * scale + 8
    said = " · ".join((f"{speed:.2f}×", *_rates(entry, rows), *(["once"] if entry.once else [])))
    yield _text(x, middle + 4, said, "small")


def _rates(entry: Entry, rows: Sequence[Row]) -> Iterator[str]:
    """The absolute speed, and the share of what the machine allows where that was measured."""
    row, name = entry.row, entry.arm
    if row.case.section == "overhead":
        yield seconds(row.timings[name].seconds)
    elif row.case.section == "decode":
        yield f"{row.case.read_bytes / row.timings[name].seconds / 1e9:.1f} GB/s"
        if (share := figures.share_of_bandwidth(row, name)) is not None:
            yield f"{share:.0%} of bandwidth"
    else:
        yield f"{row.case.flops / row.timings[name].seconds / 1e9:,.0f} GFLOP/s"
        if (share := figures.share_of_peak(row, rows, name)) is not None:
            yield f"{share:.0%} of peak"


def _legend(entries: Sequence[Entry]) -> Iterator[str]:
    marks = dict.fromkeys(name for entry in entries for name, _ in entry.marks)
    ours = dict.fromkeys(entry.arm for entry in entries if entry.row.case.section != "isa")
    x = 20
    for name, style, round_by in (
        (" or ".join(ours) or "regard", "bar", 2),
        *((name, MARKS[name], 5) for name in marks),
    ):
        yield f'<rect class="{style}" x="{x}" y="43" width="10" height="10" rx="{round_by}"/>'
        yield _text(x + 15, 52, name, "quiet small")
        x += 35 + 7 * len(name)


def _folded(line: str, most: int = 118) -> list[str]:
    """A long line in pieces that fit."""
    pieces = [""]
    for word in line.split():
        if len(pieces[-1]) + len(word) > most:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {word}".strip()
    return pieces


def _text(x: float, y: float, said: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
