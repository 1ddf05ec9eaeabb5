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
from regard.analysis.attribution.report import AttributionReport
from regard.display.text import printable

MOST_SHARES = 4_000_000
"""Shares of single heads that a page may hold, two bytes each; else it has each layer's mean."""

LEAST, DECADES = -9, 15
"""Two-byte numbers run from 10^−9 to 10^6 in even steps of their logarithm: within 0.03 %."""


def page(report: AttributionReport) -> str:
    """The whole page."""
    files = resources.files("regard.export") / "attribution_template"
    style, script, template = (
        (files / name).read_text("utf-8") for name in ("style.css", "script.js", "template.html")
    )
    attribution = report.attribution
    layers, heads = attribution.mass.shape[:2]
    shares, heads_in_page = _packed_shares(report)
    likely = math.exp(float(attribution.logprobs.mean()))
    origin = "Written by the model, greedily" if report.generated else "Given"
    return Template(template).substitute(
        title=_safe(attribution.prompt.question_text),
        style=style,
        script=script,
        model=_safe(report.model),
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        documents=f"{len(report.names)} document{'s' * (len(report.names) != 1)}",
        heads=f"{layers} × {heads} heads",
        sentences=len(attribution.sentences),
        caveat=escape(CAVEAT),
        heads_label=escape(report.heads_label[0].upper() + report.heads_label[1:]),
        how=f"{origin}: {len(attribution.tokens)} tokens, {likely:.1%} likely each (geometric mean).",
        answer="".join(_answer(report)),
        layer_options="".join(f'<option value="{i}">{i}</option>' for i in range(layers)),
        head_options="".join(f'<option value="{i}">{i}</option>' for i in range(heads_in_page)),
        texts="".join(_texts(report)),
        rows="".join(_rows(report)),
        left_out_head="" if report.left_out is None else '<th scope="col">left out, nats</th>',
        left_out_note=""
        if report.left_out is None
        else " <i>Left out</i> is the change of the answer’s log probability when the document is taken away.",
        layers_label="each layer's heads together" if report.head is None else f"head {report.head} of each",
        layer_names="".join(f'<th scope="col">{i}</th>' for i in range(layers)),
        layer_rows="".join(_layers(report)),
        document_names="".join(
            f'<th scope="col" title="{_safe(name)}">{i + 1}</th>' for i, name in enumerate(report.names)
        ),
        token_rows="".join(_tokens(report)),
        data=_json(report, shares, heads_in_page),
    )


def numbers(values: Float[ndarray, "*s"]) -> str:
    """Numbers from 0 up, of two bytes each: deflated, in base64.

    The browser's DecompressionStream undoes it.
    """
    with np.errstate(divide="ignore"):
        share = (np.log10(values) - LEAST) / DECADES
    codes = np.where(values > 0, 1 + np.round(np.clip(share, 0, 1) * 65534), 0)
    return base64.b64encode(zlib.compress(codes.astype("<u2").tobytes(), 6)).decode("ascii")


def _packed_shares(report: AttributionReport) -> tuple[str, int]:
    """What the script chooses from, and how many heads of each layer that has: 1 is their mean."""
    mass = report.attribution.by_head("sentences")
    if mass.numel() > MOST_SHARES:
        mass = mass.mean(1, keepdim=True)
    return numbers(mass.double().numpy()), mass.shape[1]


def _safe(text: str) -> str:
    return escape(printable(text))


def _colour(document: int) -> str:
    return f"--own:var(--d{document % 6})"


def _answer(report: AttributionReport) -> Iterator[str]:
    for token, shares in zip(report.attribution.tokens, report.documents, strict=True):
        style = _colour(int(shares.argmax()))
        yield f'<button type="button" aria-pressed="false" style="{style}">{_safe(token)}</button>'


def _texts(report: AttributionReport) -> Iterator[str]:
    """The documents, sentence by sentence, tinted for the whole answer until the script says otherwise."""
    among = report.among(report.sentences.mean(0))
    shares = report.documents.mean(0)
    text = report.attribution.prompt.text
    for number, name in enumerate(report.names):
        part = report.among(shares)[number]
        yield (
            f'<article class="document" style="{_colour(number)}"><h3>{number + 1} {_safe(name)} '
            f"<small>{part:.0%} among the documents, {shares[number]:.1%} of all weight</small></h3><p>"
        )
        for i, (document, (start, stop)) in enumerate(report.attribution.sentences):
            if document == number:
                sentence = text[start:stop]
                visible = sentence.rstrip()
                yield (
                    f'<span class="s" style="--share:{among[i]:.4f}">{_safe(visible)}</span>'
                    f'<small class="n">{among[i]:.0%}</small>{sentence[len(visible) :]}'
                )
        yield "</p></article>"


def _rows(report: AttributionReport) -> Iterator[str]:
    shares = report.documents.mean(0)
    parts = report.among(shares)
    blank = "" if report.left_out is None else "<td></td>"
    for i, name in enumerate(report.names):
        left_out = "" if report.left_out is None else f"<td>{-report.left_out[i].sum():+.2f}</td>".replace("-", "−")
        yield (
            f'<tr><th scope="row" style="color:var(--d{i % 6})">{i + 1} {_safe(name)}</th>'
            f"<td>{shares[i]:.1%}</td>{_heat(parts[i])}{left_out}"
            f'<td class="text">{report.strongest(i)}</td></tr>'
        )
    yield (
        f'<tr class="sum"><th scope="row">documents together</th><td>{report.together.mean():.1%}</td>'
        f"<td>100%</td>{blank}<td></td></tr>"
    )
    for name, share in report.rest.items():
        yield (f'<tr><th scope="row">{name}</th><td>{share:.1%}</td><td></td>{blank}<td></td></tr>')


def _layers(report: AttributionReport) -> Iterator[str]:
    most = max(float(report.by_layer.max()), 1e-12)
    for i, name in enumerate(report.names):
        cells = "".join(_heat(share, share / most, 1) for share in report.by_layer[:, i].tolist())
        yield f'<tr><th scope="row">{i + 1} {_safe(name)}</th>{cells}</tr>'


def _tokens(report: AttributionReport) -> Iterator[str]:
    parts = report.among(report.documents)
    for at, token in enumerate(report.attribution.tokens):
        best = report.sentence(int(report.sentences[at].argmax()))
        yield (
            f'<tr><th scope="row"><code>{_safe(token.strip() or repr(token)[1:-1])}</code></th>'
            f"<td>{report.together[at]:.0%}</td>{''.join(_heat(p) for p in parts[at].tolist())}"
            f'<td class="text">{_safe(best)}</td></tr>'
        )


def _heat(share: float, tint: float | None = None, digits: int = 0) -> str:
    tint = share if tint is None else tint
    return f'<td class="heat" style="--share:{tint:.3f}">{share:.{digits}%}</td>'


def _json(report: AttributionReport, shares: str, heads_in_page: int) -> str:
    """What the script reads. `<` is escaped, so that it cannot end the script."""
    attribution = report.attribution
    data = {
        "size": [len(attribution.layers), heads_in_page, len(attribution.tokens), len(attribution.sentences)],
        "shares": shares,
        "documents": [number for number, _ in attribution.sentences],
        "names": report.names,
        "over": report.over,
        "layer": "" if report.layer is None else str(report.layer),
        "head": "" if report.head is None or heads_in_page == 1 else str(report.head),
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
