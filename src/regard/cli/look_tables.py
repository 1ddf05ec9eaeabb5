"""A run report in the terminal: all heads in a table, and those worth showing with their links and maps."""

from __future__ import annotations

import itertools

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from regard.analysis.report_highlights import HighlightedHead, Link, highlighted_heads, highlighted_links
from regard.analysis.run_report import HeadReport, RunReport
from regard.cli import look_maps
from regard.cli.look_snippets import label, snippet

QUERY, KEY = "bold black on cyan", "bold black on yellow"
NARROW, TIGHT = 92, 48


def show(console: Console, report: RunReport) -> None:
    """Print all of it."""
    console.print(opening(report))
    console.print()
    console.print(table(report, console.width, look_maps.blocks(console)))
    for chosen in highlighted_heads(report):
        console.print()
        console.print(_closer(console, report, chosen))


def opening(report: RunReport) -> RenderableType:
    """What was read and what it took."""
    tokens = f"{report.tokens.total:,} tokens"
    if report.tokens.total > len(report.tokens):
        tokens += f", of which only the first {len(report.tokens):,}"
    lines = f"{report.source.lines:,} line{'s' * (report.source.lines != 1)}"
    size = f"{report.source.size:,} bytes, {lines}, {tokens}"
    took = f"{report.seconds:.1f} s, {report.peak / 2**20:,.0f} MiB at most"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("read", Text.assemble((report.source.name, "bold"), f"  {size}"))
    n, heads = len(report.tokens), len(report.heads)
    grid.add_row("model", f"{report.model}, {len(report.visibility)} layers of {report.heads_per_layer} heads")
    for alike, sees in _alike(report):
        first, last = alike[0], alike[-1]
        grid.add_row(f"layer {first}" if first == last else f"layers {first}–{last}", sees)
    pairs = sum(int(head.visible.sum()) for head in report.heads)
    grid.add_row(
        "took",
        f"{took}; exact statistics of all {pairs:,} weights of {heads} "
        f"head{'s' * (heads > 1)}, and never {n:,} × {n:,} of them at once",
    )
    return grid


def _alike(report: RunReport) -> list[tuple[list[int], str]]:
    """Neighbouring layers that see alike."""
    shown = sorted({head.layer for head in report.heads})
    runs = itertools.groupby(shown, key=lambda layer: report.visibility[layer])
    return [([*layers], sees) for sees, layers in runs]


def table(report: RunReport, width: int, blocks: bool) -> Table:
    """Every head in a row."""
    wide, tight = width >= NARROW, width < TIGHT
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="dim")
    table.add_column("head", no_wrap=True, style="bold", min_width=4)
    # Of layers that see later keys, the weight on these is shown as well.
    both = report.ahead and not tight
    names = ["entropy", "previous", *["next"] * both, *["first"] * (not tight), *["last"] * both]
    for name in names:
        table.add_column(name if wide else name[:4], no_wrap=True, min_width=4)
    if not tight:
        table.add_column("distance" if wide else "dist", justify="right", no_wrap=True, min_width=4)
    if wide:
        table.add_column("keys", justify="right", no_wrap=True)
    table.add_column("receives most", no_wrap=True, overflow="ellipsis", ratio=1)
    for head in report.heads:
        following, last = head.ahead or (0.0, 0.0)
        shares = {
            "entropy": head.entropy,
            "previous": head.previous,
            "next": following,
            "first": head.first,
            "last": last,
        }
        row: list[Text | str] = [_share(shares[name], wide and blocks) for name in names]
        row += [f"{head.distance:,.1f}"] * (not tight) + [f"{head.support:,.1f}"] * wide
        table.add_row(head.name, *row, _most(report, head))
    on = "previous, next, first and last" if both else "previous and on the first"
    table.caption = (
        f"entropy ÷ log of visible keys (0 one key, 1 all alike) · weight on the {on} token · "
        "mean distance in tokens · keys looked at (e^entropy) · what the token receives in all, and × its "
        "share if attention were uniform"
    )
    table.caption_justify = "left"
    return table


def _share(value: float, bar: bool) -> Text:
    shown = Text(f"{value:.2f}")
    if bar:
        eighths = round(min(max(value, 0), 1) * 40)
        full, rest = divmod(eighths, 8)
        drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
        shown.append(" ").append(f"{drawn:<5}", style="cyan")
    return shown


def _most(report: RunReport, head: HeadReport) -> Text:
    token = head.collector
    times = head.received[token] / max(float(head.uniform[token]), 1e-12)
    return Text.assemble(
        (label(report, token), KEY),
        (f" {'token' if report.prose else 'line'} {report.position(token)}", "dim"),
        f"  {head.received[token]:,.1f}, {times:,.1f}×",
    )


def _closer(console: Console, report: RunReport, chosen: HighlightedHead) -> RenderableType:
    alone = len(report.heads) == 1
    few = len({head.layer for head in report.heads}) == 1
    count = 24 if alone else 8 if few else 4
    links = highlighted_links(report, chosen.head, count, chosen.reach)
    drawn = look_maps.of_map(report, chosen.head, console, large=alone or few)
    title = Text.assemble("head ", (chosen.head.name, "bold"), f"  {chosen.title}")
    parts: list[RenderableType] = [Rule(title, align="left", style="dim")]
    why = Text(f"{chosen.head.name} {chosen.why}" if chosen.why else report.visibility[chosen.head.layer])
    parts += [why, Text(), drawn, Text()]
    near = f"those less than {chosen.reach} tokens away"
    around = "its neighbours, what the model added" if report.ahead else "its neighbour"
    kind = f"itself, {around} and the start" if chosen.reach <= 2 else near
    parts.append(Text(f"{'strongest' if links else 'no'} links, leaving out {kind}", style="dim"))
    parts += [_link(report, link, console) for link in links]
    return Group(*parts)


def _link(report: RunReport, link: Link, console: Console) -> RenderableType:
    """Query and key in their lines; in one line if both are in it."""
    digits = len(str(report.position(len(report.tokens) - 1)))
    width = max(console.width - digits - 16, 20)
    colour = console.color_system is not None

    def marked(token: str, style: str) -> tuple[str, str] | str:
        signs = "⟦⟧" if style is QUERY else "‹›"
        return (token, style) if colour else f"{signs[0]}{token}{signs[1]}"

    def line(lead: str, role: str, number: int, *parts: tuple[str, str] | str) -> Text:
        return Text.assemble(
            (lead, "bold"),
            (f"{role:>6}", "dim"),
            f" {number:>{digits}}",
            (" │ ", "dim"),
            *parts,
            no_wrap=True,
            overflow="crop",
        )

    weight = f"{link.weight:4.2f}"
    query, key = (snippet(report, token, width) for token in (link.query, link.key))
    together = report.tokens.lines[link.query] == report.tokens.lines[link.key]
    start = query.before.rfind(key.before + key.token)
    if together and key.before and start == 0:
        between = query.before[len(key.before + key.token) :]
        return line(
            weight,
            "both",
            query.position,
            key.before,
            marked(key.token, KEY),
            between,
            marked(query.token, QUERY),
            query.after,
        )
    return Group(
        line(weight, "query", query.position, query.before, marked(query.token, QUERY), query.after),
        line("    ", "key", key.position, key.before, marked(key.token, KEY), key.after),
    )
