"""An attribution as one HTML page that needs nothing else: no network, no fonts, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from html import escape
from importlib import resources
from string import Template

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from regard.analysis.attribution import CAVEAT
from regard.analysis.attribution.summary import AttributionReport
from regard.display.text import printable

ROOM = 4_000_000
"""Shares of single heads that a page may hold, two bytes each; else it has each layer's mean."""

LEAST, DECADES = -9, 15
"""Two-byte numbers run from 10^−9 to 10^6 in even steps of their logarithm: within 0.03 %."""


def page(told: AttributionReport) -> str:
    """The whole page."""
    files = resources.files("regard.export") / "attribution_template"
    style, script, form = ((files / name).read_text("utf-8") for name in ("style.css", "script.js", "template.html"))
    found = told.found
    layers, heads = found.mass.shape[:2]
    shares, held = _held(told)
    likely = math.exp(float(found.logprobs.mean()))
    wrote = "Written by the model, greedily" if told.written else "Given"
    return Template(form).substitute(
        title=_safe(found.prompt.asked),
        style=style,
        script=script,
        model=_safe(told.model),
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        documents=f"{len(told.names)} document{'s' * (len(told.names) != 1)}",
        heads=f"{layers} × {heads} heads",
        sentences=len(found.sentences),
        caveat=escape(CAVEAT),
        whose=escape(told.whose[0].upper() + told.whose[1:]),
        how=f"{wrote}: {len(found.tokens)} tokens, {likely:.1%} likely each (geometric mean).",
        answer="".join(_answer(told)),
        layer_options="".join(f'<option value="{i}">{i}</option>' for i in range(layers)),
        head_options="".join(f'<option value="{i}">{i}</option>' for i in range(held)),
        texts="".join(_texts(told)),
        rows="".join(_rows(told)),
        owed_head="" if told.owed is None else '<th scope="col">left out, nats</th>',
        owed_said=""
        if told.owed is None
        else " <i>Left out</i> is the change of the answer’s log probability when the document is taken away.",
        layers_whose="each layer's heads together" if told.head is None else f"head {told.head} of each",
        layer_names="".join(f'<th scope="col">{i}</th>' for i in range(layers)),
        layer_rows="".join(_layers(told)),
        document_names="".join(
            f'<th scope="col" title="{_safe(name)}">{i + 1}</th>' for i, name in enumerate(told.names)
        ),
        token_rows="".join(_tokens(told)),
        data=_json(told, shares, held),
    )


def numbers(values: Float[ndarray, "*s"]) -> str:
    """Numbers from 0 up, of two bytes each: deflated, in base64.

    The browser's DecompressionStream undoes it.
    """
    with np.errstate(divide="ignore"):
        share = (np.log10(values) - LEAST) / DECADES
    codes = np.where(values > 0, 1 + np.round(np.clip(share, 0, 1) * 65534), 0)
    return base64.b64encode(zlib.compress(codes.astype("<u2").tobytes(), 6)).decode("ascii")


def _held(told: AttributionReport) -> tuple[str, int]:
    """What the script chooses from, and how many heads of each layer that has: 1 is their mean."""
    mass = told.found.by_head("sentences")
    if mass.numel() > ROOM:
        mass = mass.mean(1, keepdim=True)
    return numbers(mass.double().numpy()), mass.shape[1]


def _safe(text: str) -> str:
    return escape(printable(text))


def _own(document: int) -> str:
    return f"--own:var(--d{document % 6})"


def _answer(told: AttributionReport) -> Iterator[str]:
    for token, shares in zip(told.found.tokens, told.documents, strict=True):
        yield (
            f'<button type="button" aria-pressed="false" style="{_own(int(shares.argmax()))}">{_safe(token)}</button>'
        )


def _texts(told: AttributionReport) -> Iterator[str]:
    """The documents, sentence by sentence, tinted for the whole answer until the script says otherwise."""
    among = told.among(told.sentences.mean(0))
    shares = told.documents.mean(0)
    text = told.found.prompt.text
    for number, name in enumerate(told.names):
        part = told.among(shares)[number]
        yield (
            f'<article class="document" style="{_own(number)}"><h3>{number + 1} {_safe(name)} '
            f"<small>{part:.0%} among the documents, {shares[number]:.1%} of all weight</small></h3><p>"
        )
        for i, (document, (start, stop)) in enumerate(told.found.sentences):
            if document == number:
                whole = text[start:stop]
                said = whole.rstrip()
                yield (
                    f'<span class="s" style="--share:{among[i]:.4f}">{_safe(said)}</span>'
                    f'<small class="n">{among[i]:.0%}</small>{whole[len(said) :]}'
                )
        yield "</p></article>"


def _rows(told: AttributionReport) -> Iterator[str]:
    shares = told.documents.mean(0)
    parts = told.among(shares)
    blank = "" if told.owed is None else "<td></td>"
    for i, name in enumerate(told.names):
        owed = "" if told.owed is None else f"<td>{-told.owed[i].sum():+.2f}</td>".replace("-", "−")
        yield (
            f'<tr><th scope="row" style="color:var(--d{i % 6})">{i + 1} {_safe(name)}</th>'
            f"<td>{shares[i]:.1%}</td>{_heat(parts[i])}{owed}"
            f'<td class="text">{told.strongest(i)}</td></tr>'
        )
    yield (
        f'<tr class="sum"><th scope="row">documents together</th><td>{told.together.mean():.1%}</td>'
        f"<td>100%</td>{blank}<td></td></tr>"
    )
    for name, share in told.rest.items():
        yield (f'<tr><th scope="row">{name}</th><td>{share:.1%}</td><td></td>{blank}<td></td></tr>')


def _layers(told: AttributionReport) -> Iterator[str]:
    most = max(float(told.by_layer.max()), 1e-12)
    for i, name in enumerate(told.names):
        cells = "".join(_heat(share, share / most, 1) for share in told.by_layer[:, i].tolist())
        yield f'<tr><th scope="row">{i + 1} {_safe(name)}</th>{cells}</tr>'


def _tokens(told: AttributionReport) -> Iterator[str]:
    parts = told.among(told.documents)
    for at, token in enumerate(told.found.tokens):
        best = told.sentence(int(told.sentences[at].argmax()))
        yield (
            f'<tr><th scope="row"><code>{_safe(token.strip() or repr(token)[1:-1])}</code></th>'
            f"<td>{told.together[at]:.0%}</td>{''.join(_heat(p) for p in parts[at].tolist())}"
            f'<td class="text">{_safe(best)}</td></tr>'
        )


def _heat(share: float, tint: float | None = None, digits: int = 0) -> str:
    tint = share if tint is None else tint
    return f'<td class="heat" style="--share:{tint:.3f}">{share:.{digits}%}</td>'


def _json(told: AttributionReport, shares: str, held: int) -> str:
    """What the script reads. `<` is spelled so that it ends nothing."""
    found = told.found
    data = {
        "size": [len(found.layers), held, len(found.tokens), len(found.sentences)],
        "shares": shares,
        "documents": [number for number, _ in found.sentences],
        "names": told.names,
        "over": told.over,
        "layer": "" if told.layer is None else str(told.layer),
        "head": "" if told.head is None or held == 1 else str(told.head),
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
