"""A study in the terminal: the heads in a table, and the telling ones with their links and maps."""

from __future__ import annotations

import itertools

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from regard.cli import look_maps
from regard.cli.look_snippets import label, snippet
from regard.look.study import Head, Study
from regard.look.telling import Link, Pick, strongest, telling

QUERY, KEY = "bold black on cyan", "bold black on yellow"
NARROW, TIGHT = 92, 48


def show(console: Console, study: Study) -> None:
    """Print all of it."""
    console.print(opening(study))
    console.print()
    console.print(table(study, console.width, look_maps.blocks(console)))
    for pick in telling(study):
        console.print()
        console.print(_closer(console, study, pick))


def opening(study: Study) -> RenderableType:
    """What was read and what it took."""
    words = study.words
    tokens = f"{words.whole:,} tokens"
    if words.whole > len(words):
        tokens += f", of which only the first {len(words):,}"
    lines = f"{study.source.lines:,} line{'s' * (study.source.lines != 1)}"
    size = f"{study.source.size:,} bytes, {lines}, {tokens}"
    took = f"{study.seconds:.1f} s, {study.peak / 2**20:,.0f} MiB at most"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("read", Text.assemble((study.source.name, "bold"), f"  {size}"))
    n, heads = len(study.words), len(study.heads)
    grid.add_row("model", f"{study.model}, {len(study.layers)} layers of {study.heads_per_layer} heads")
    for alike, sees in _alike(study):
        first, last = alike[0], alike[-1]
        grid.add_row(f"layer {first}" if first == last else f"layers {first}–{last}", sees)
    pairs = sum(int(head.visible.sum()) for head in study.heads)
    grid.add_row(
        "took",
        f"{took}; exact statistics of all {pairs:,} weights of {heads} "
        f"head{'s' * (heads > 1)}, and never {n:,} × {n:,} of them at once",
    )
    return grid


def _alike(study: Study) -> list[tuple[list[int], str]]:
    """Neighbouring layers that see alike."""
    shown = sorted({head.layer for head in study.heads})
    runs = itertools.groupby(shown, key=lambda layer: study.layers[layer])
    return [([*layers], sees) for sees, layers in runs]


def table(study: Study, width: int, blocks: bool) -> Table:
    """Every head in a row."""
    wide, tight = width >= NARROW, width < TIGHT
    made = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="dim")
    made.add_column("head", no_wrap=True, style="bold", min_width=4)
    # Of layers that look ahead, what they see there is told as well.
    both = study.ahead and not tight
    names = ["entropy", "previous", *["next"] * both, *["first"] * (not tight), *["last"] * both]
    for name in names:
        made.add_column(name if wide else name[:4], no_wrap=True, min_width=4)
    if not tight:
        made.add_column("distance" if wide else "dist", justify="right", no_wrap=True, min_width=4)
    if wide:
        made.add_column("keys", justify="right", no_wrap=True)
    made.add_column("receives most", no_wrap=True, overflow="ellipsis", ratio=1)
    for head in study.heads:
        following, last = head.ahead or (0.0, 0.0)
        shares = {
            "entropy": head.entropy,
            "previous": head.previous,
            "next": following,
            "first": head.first,
            "last": last,
        }
        row: list[Text | str] = [_share(shares[name], wide and blocks) for name in names]
        row += [f"{head.distance:,.1f}"] * (not tight) + [f"{head.effective:,.1f}"] * wide
        made.add_row(head.name, *row, _most(study, head))
    on = "previous, next, first and last" if both else "previous and on the first"
    made.caption = (
        f"entropy ÷ log of visible keys (0 one key, 1 all alike) · weight on the {on} token · "
        "mean distance in tokens · keys looked at (e^entropy) · what the token receives in all, and × its "
        "share if attention were even"
    )
    made.caption_justify = "left"
    return made


def _share(value: float, bar: bool) -> Text:
    shown = Text(f"{value:.2f}")
    if bar:
        eighths = round(min(max(value, 0), 1) * 40)
        full, rest = divmod(eighths, 8)
        drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
        shown.append(" ").append(f"{drawn:<5}", style="cyan")
    return shown


def _most(study: Study, head: Head) -> Text:
    token = head.collector
    times = head.received[token] / max(float(head.share[token]), 1e-12)
    return Text.assemble(
        (label(study, token), KEY),
        (f" {'token' if study.prose else 'line'} {study.place(token)}", "dim"),
        f"  {head.received[token]:,.1f}, {times:,.1f}×",
    )


def _closer(console: Console, study: Study, pick: Pick) -> RenderableType:
    alone = len(study.heads) == 1
    few = len({head.layer for head in study.heads}) == 1
    count = 24 if alone else 8 if few else 4
    links = strongest(study, pick.head, count, pick.reach)
    drawn = look_maps.of_map(study, pick.head, console, large=alone or few)
    title = Text.assemble("head ", (pick.head.name, "bold"), f"  {pick.title}")
    parts: list[RenderableType] = [Rule(title, align="left", style="dim")]
    why = Text(f"{pick.head.name} {pick.why}" if pick.why != "as asked" else study.layers[pick.head.layer])
    parts += [why, Text(), drawn, Text()]
    near = f"those less than {pick.reach} tokens away"
    around = "its neighbours, what the model added" if study.ahead else "its neighbour"
    kind = f"itself, {around} and the start" if pick.reach <= 2 else near
    parts.append(Text(f"{'strongest' if links else 'no'} links, leaving out {kind}", style="dim"))
    parts += [_link(study, link, console) for link in links]
    return Group(*parts)


def _link(study: Study, link: Link, console: Console) -> RenderableType:
    """Query and key in their lines; in one line where both stand in it."""
    digits = len(str(study.place(len(study.words) - 1)))
    room = max(console.width - digits - 16, 20)
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
    query, key = (snippet(study, token, room) for token in (link.query, link.key))
    together = study.words.lines[link.query] == study.words.lines[link.key]
    start = query.before.rfind(key.before + key.token)
    if together and key.before and start == 0:
        between = query.before[len(key.before + key.token) :]
        return line(
            weight,
            "both",
            query.place,
            key.before,
            marked(key.token, KEY),
            between,
            marked(query.token, QUERY),
            query.after,
        )
    return Group(
        line(weight, "query", query.place, query.before, marked(query.token, QUERY), query.after),
        line("    ", "key", key.place, key.before, marked(key.token, KEY), key.after),
    )
