"""A study as one HTML file that needs nothing else: no network, no fonts, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from regard.look import packing
from regard.look.lines import label, snippet
from regard.look.maps import scale_for
from regard.look.study import Head, Study
from regard.look.telling import Link, Pick, far, strongest, telling
from regard.pages import numbers, printable, put
from regard.pictures import DECADES, Scale, uri, viridis

LINK_BYTES = 10_000_000
"""What all queries' links may take in the page; the heads that tell most come first."""

LINKS_SHOWN = 12
CHUNK = 40
"""Lines that a browser lays out together, when they come into view."""


def write(study: Study, path: Path) -> int:
    """Write the page, and return its bytes."""
    return put(page(study), path)


def page(study: Study) -> str:
    """The whole page."""
    files = resources.files("regard.look") / "page"
    style, script, form = (
        (files / name).read_text("utf-8") for name in ("style.css", "script.js", "template.html")
    )
    picks = telling(study, 6)
    n, heads = len(study.words), len(study.heads)
    pairs = sum(int(head.visible.sum()) for head in study.heads)
    chosen = picks[0].head
    with_links = dict(_links(study, picks))
    return Template(form).substitute(
        title=escape(printable(study.source.name)),
        style=style + _palette(),
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        n=f"{n:,}",
        model=escape(study.model),
        heads=f"{heads} attention head{'s' * (heads != 1)}",
        pairs=f"{pairs:,}",
        size=f"{study.source.size:,}",
        lines=f"{study.source.lines:,}",
        layers=len(study.layers),
        seconds=f"{study.seconds:,.1f} s",
        peak=f"{study.peak / 2**20:,.0f} MiB" if study.peak else "not known",
        cards="".join(_card(study, pick) for pick in picks),
        pixels=" ".join(_pixels(study)),
        low=f"{Scale(1.0).low:g}",
        columns=max(sum(h.layer == i for h in study.heads) for i in {h.layer for h in study.heads}),
        atlas="".join(_rows(study)),
        rows="".join(_figures(study, head) for head in study.heads),
        options="".join(f'<option value="{h.name}">head {h.name}</option>' for h in study.heads),
        columns_of_bars="".join(
            f'<th scope="col"><button type="button">{name}</button></th>'
            for name in _bars(study, chosen)
        ),
        prose=" prose" if study.prose else "",
        around="its neighbours, what the model added" if study.ahead else "its neighbour",
        tokens=f"{n:,}" if n == study.words.whole else f"first {n:,} of {study.words.whole:,}",
        with_links=_which(study, with_links),
        code="".join(_code(study)),
        data=_json(study, chosen, with_links),
    )


def _palette() -> str:
    stops = ",".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in viridis(16).tolist())
    return f":root{{--viridis:{stops}}}\n"


def _pixels(study: Study) -> Iterator[str]:
    """What a pixel is, for each kind of map that the study has."""
    for band in sorted({head.band for head in study.heads}):
        some = next(head for head in study.heads if head.band is band)
        rows, cols = study.cell(some)
        if band:
            yield (f"Heads that see few tokens back are drawn by distance: queries downwards, to the right "
                   f"the distance down to 0, the query itself; a pixel is the exact mean over up to {rows} "
                   f"quer{'ies' if rows > 1 else 'y'}.")  # fmt: skip
        else:
            yield (f"Queries run downwards, keys to the right, both in the order of the text; a pixel is the "
                   f"exact maximum of up to {rows} × {cols} weights.")  # fmt: skip


def picture(head: Head) -> str:
    """A head's map as a data URI."""
    levels = scale_for(head, head.pooling).of(head.maps[head.pooling])
    return uri(levels, viridis())


def _card(study: Study, pick: Pick) -> str:
    links = strongest(study, pick.head, 3, pick.reach)
    name = pick.head.name
    return (
        f'<article class="card"><button type="button" class="map" data-head="{name}" '
        f'aria-label="show head {name}"><img src="{picture(pick.head)}" alt=""></button>'
        f"<h3>{escape(pick.title)} <small>head {name}</small></h3><p>It {escape(pick.why)}.</p>"
        f'<ol class="links">{"".join(_link(study, link) for link in links)}</ol></article>'
    )


def _link(study: Study, link: Link) -> str:
    lines = "".join(
        f'<span class="ln">{part.place}</span><code>{escape(part.before)}'
        f'<mark class="{role}">{escape(part.token)}</mark>{escape(part.after)}</code>'
        for role, part in (
            ("q", snippet(study, link.query, 44)),
            ("k", snippet(study, link.key, 44)),
        )
    )
    return f'<li><b>{link.weight:.2f}</b><span class="pair">{lines}</span></li>'


def _rows(study: Study) -> Iterator[str]:
    for layer in sorted({head.layer for head in study.heads}):
        yield f'<div class="layer"><h3>layer {layer} <small>{escape(study.layers[layer])}</small></h3><div>'
        for head in study.heads:
            if head.layer == layer:
                told = ", ".join(f"{name} {bar:.2f}" for name, bar in _bars(study, head).items())
                alt = f"head {head.name}: {told}, mean distance {head.distance:.0f}"
                yield (
                    f'<button type="button" class="map" data-head="{head.name}" aria-pressed="false">'
                    f'<img src="{picture(head)}" alt="{alt}"><span>{head.name}</span></button>'
                )
        yield "</div></div>"


def _bars(study: Study, head: Head) -> dict[str, float]:
    """The figures between 0 and 1, by name; two more where heads look ahead."""
    bars = {"entropy": head.entropy, "previous token": head.previous, "first token": head.first}
    if study.ahead:
        following, last = head.ahead or (0.0, 0.0)
        bars |= {"next token": following, "last token": last}
    return bars


def _figures(study: Study, head: Head) -> str:
    token = head.collector
    times = float(head.received[token]) / max(float(head.share[token]), 1e-12)

    def cell(value: float, shown: str, bar: bool = False) -> str:
        style = f' style="--bar:{min(max(value, 0), 1):.3f}" class="bar"' if bar else ""
        return f'<td data-value="{value:.6g}"{style}>{shown}</td>'

    return (
        f'<tr><th scope="row" data-value="{head.layer * 1000 + head.head}"><button type="button" '
        f'data-head="{head.name}">{head.name}</button></th>'
        + "".join(cell(v, f"{v:.2f}", True) for v in _bars(study, head).values())
        + cell(head.distance, f"{head.distance:,.1f}")
        + cell(head.effective, f"{head.effective:,.1f}")
        + cell(float(head.received[token]), f"{head.received[token]:,.1f}")
        + cell(times, f"{times:,.1f}×")
        + f'<td><code class="k">{escape(label(study, token))}</code> '
        f'<a href="#L{study.words.lines[token]}">{"token" if study.prose else "line"} '
        f"{study.place(token)}</a></td></tr>"
    )


def _code(study: Study) -> Iterator[str]:
    """The text as lines of tokens: <i> begins a token, <b> goes on with one that began a line above."""
    number, width = 1, len(str(study.source.lines))
    yield f'<div class="chunk" style="--digits:{width}"><div class="line" id="L1" data-line="1">'
    text, end, words = study.source.text, 0, study.words
    for name, (start, stop) in zip(words.texts, words.spans, strict=True):
        if start == stop:
            yield f'<i class="start">{escape(printable(name))}</i>'
            continue
        # What lies between tokens (an encoder reads no white space) belongs to none. Tokens that split one
        # character share its span: the first shows it, the others show nothing.
        between, (start, end) = text[end:start], (max(start, end), max(stop, end))
        for tag, whole in (("span", between), ("i", text[start:stop])):
            pieces = whole.split("\n")
            for j, piece in enumerate(pieces):
                if j:
                    number += 1
                    yield "</div>"
                    if number % CHUNK == 1:
                        yield f'</div><div class="chunk" style="--digits:{width}">'
                    yield f'<div class="line" id="L{number}" data-line="{number}">'
                breaks = j < len(pieces) - 1
                shown = escape(printable(piece.rstrip("\r")), quote=False)
                if tag == "span":
                    yield f"<span>{shown}</span>" if shown else ""
                elif j == 0 or shown or breaks:
                    mine = "b" if j else "i"
                    yield f"<{mine}{' class=n' if breaks else ''}>{shown}</{mine}>"
    if study.words.whole > len(words):
        yield f'<span class="start">⟨{words.whole - len(words):,} more tokens were not read⟩</span>'
    yield "</div></div>"


def _links(study: Study, picks: list[Pick]) -> Iterator[tuple[str, str]]:
    """Every query's links of as many heads as there is room for, telling ones first."""
    first = [pick.head for pick in picks]
    rest = sorted((h for h in study.heads if h not in first), key=lambda h: -far(h))
    room = LINK_BYTES
    for head in (*first, *rest):
        text = packing.links(head)
        room -= len(text)
        if room < 0:
            return
        yield head.name, text


def _which(study: Study, with_links: dict[str, str]) -> str:
    if len(with_links) == len(study.heads):
        return "every head" if len(study.heads) > 1 else "this head"
    return f"the {len(with_links)} heads that tell most ({', '.join(sorted(with_links))})"


def _json(study: Study, chosen: Head, with_links: dict[str, str]) -> str:
    """What the script reads. No text of the source is in it; `<` is spelled so that it ends nothing."""
    shares = {head.layer: head.share for head in study.heads}
    data = {
        "n": len(study.words),
        "chosen": chosen.name,
        "decades": DECADES,
        "prose": study.prose,
        "facts": [
            name.replace("entropy", "entropy ÷ log keys")
            for name in (*_bars(study, chosen), "mean distance", "keys looked at")
        ],
        "shares": {layer: numbers(share) for layer, share in shares.items()},
        "heads": [
            {
                "name": head.name,
                "layer": head.layer,
                "how": head.pooling,
                "band": head.band,
                "sees": study.layers[head.layer],
                "facts": [*_bars(study, head).values(), head.distance, head.effective],
                "received": numbers(head.received),
                "size": head.maps["max"].shape,
                "maps": {how: numbers(values) for how, values in head.maps.items()},
                "strongest": strongest(study, head, LINKS_SHOWN),
                "links": with_links.get(head.name),
                "width": head.keys.shape[1],
            }
            for head in study.heads
        ],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
