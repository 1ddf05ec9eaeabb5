"""An attribution in the terminal: where the weight goes, document by document, token by token."""

from __future__ import annotations

import math

from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from regard.analysis.attribution import CAVEAT
from regard.analysis.attribution.report import AttributionReport
from regard.display.text import printable

COLOURS = "cyan", "yellow", "magenta", "green", "blue", "red"
"""Of documents, in turn; each is named by its number as well."""

LEVELS = "▁▂▃▄▅▆▇█"
TOKENS, SENTENCES = 40, 8


def show(console: Console, report: AttributionReport) -> None:
    """Print all of it."""
    console.print(_opening(report))
    for title, part in (
        (f"where the weight goes, {report.heads_label}", _rest(report)),
        ("document by document", _documents(report, console)),
        ("the sentences that get most", _sentences(report)),
        ("token by token", _tokens(report, console)),
    ):
        console.print()
        console.print(Rule(title, align="left", style="dim"))
        console.print(part)
    console.print()
    console.print(Text(CAVEAT if report.left_out is None else f"{CAVEAT} Here it was table.", "dim"))
    console.print()


def colour(document: int) -> str:
    """Of a document."""
    return COLOURS[document % len(COLOURS)]


def _opening(report: AttributionReport) -> Table:
    attribution = report.attribution
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    layers, heads = attribution.mass.shape[:2]
    grid.add_row("model", f"{report.model}, {layers} layers of {heads} heads")
    documents = f"{len(report.names)} document{'s' * (len(report.names) != 1)}"
    grid.add_row(
        "read",
        f"{documents}, {len(attribution.sentences)} sentences; a prompt of {len(attribution.prompt_ids):,} tokens",
    )
    grid.add_row("question", Text(printable(attribution.prompt.question_text)))
    answer = Text()
    for token, shares in zip(attribution.tokens, report.documents, strict=True):
        answer.append(printable(token), f"bold {colour(int(shares.argmax()))}")
    grid.add_row("answer", answer)
    mean = float(attribution.logprobs.mean())
    how = "written by the model, greedily" if report.generated else "given"
    grid.add_row(
        "",
        f"{how}; {len(attribution.tokens)} tokens, {math.exp(mean):.1%} likely each "
        "(geometric mean). Each is in the colour of the document with most weight",
    )
    return grid


def bar(share: float, width: int = 10) -> str:
    """A share as a bar of block characters."""
    full, rest = divmod(round(min(max(share, 0), 1) * width * 8), 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _rest(report: AttributionReport) -> Group:
    grid = Table.grid(padding=(0, 2))
    share = float(report.together.mean())
    grid.add_row("documents", f"{share:6.1%}", Text(bar(share, 30), "cyan"))
    for name, share in report.rest.items():
        why = " where heads rest" if name == "first token" else ""
        grid.add_row(name, f"{share:6.1%}", Text(bar(share, 30) + why, "dim"))
    note = "each by the head that gives it most, so that they need not sum to 100%"
    return Group(grid, *[Text(note, "dim")] * (report.over == "max"))


def _documents(report: AttributionReport, console: Console) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("of all", justify="right", no_wrap=True)
    table.add_column("among documents", no_wrap=True)
    table.add_column("layer by layer", no_wrap=True)
    if report.left_out is not None:
        table.add_column("left out", justify="right", no_wrap=True)
    table.add_column("strongest heads")
    shares, most = report.documents.mean(0), max(float(report.by_layer.max()), 1e-12)
    for i, (share, part) in enumerate(zip(shares, report.among(shares), strict=True)):
        layers = "".join(LEVELS[min(int(each / most * 8), 7)] for each in report.by_layer[:, i])
        row = [
            Text.assemble((f"{i + 1} ", f"bold {colour(i)}"), printable(report.names[i])),
            f"{share:.1%}",
            Text.assemble(f"{part:4.0%} ", (bar(part), colour(i))),
            layers if console.encoding.lower().startswith("utf") else "",
        ]
        if report.left_out is not None:
            row.append(f"{-report.left_out[i].sum():+.2f}".replace("-", "−"))
        table.add_row(*row, report.strongest(i))
    caption = f"layer by layer: the highest block is {most:.1%} of a layer's weight"
    if report.left_out is not None:
        caption += " · left out: the change of the answer's log probability, in nats, without the document"
    return Group(table, Text(caption, "dim"))


def _sentences(report: AttributionReport) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    shares = report.among(report.sentences.mean(0))
    for i in (-shares).argsort(kind="stable")[:SENTENCES]:
        number, _ = report.attribution.sentences[i]
        text = Text(printable(report.sentence(int(i))))
        table.add_row(Text(str(number + 1), f"bold {colour(number)}"), f"{shares[i]:.0%}", text)
    return table


def _tokens(report: AttributionReport, console: Console) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    count = len(report.names)
    columns = max((console.width - 50) // 7, 1)
    shown = sorted((-report.documents.mean(0)).argsort(kind="stable")[:columns].tolist())
    table.add_column("token", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for i in shown:
        table.add_column(Text(str(i + 1), f"bold {colour(i)}"), justify="right", no_wrap=True)
    table.add_column("most of all to", no_wrap=True, overflow="ellipsis", ratio=1)
    parts = report.among(report.documents)
    for at, token in enumerate(report.attribution.tokens[:TOKENS]):
        best = int(report.sentences[at].argmax())
        name = printable(repr(token)[1:-1].strip() or "␣")
        cells = [Text(f"{parts[at, i]:.0%}", colour(i) if parts[at].argmax() == i else "dim") for i in shown]
        table.add_row(Text(name), f"{report.together[at]:.0%}", *cells, Text(printable(report.sentence(best)), "dim"))
    notes = ["all: what of the token's weight goes to documents; then the documents' shares of that"]
    if len(shown) < count:
        notes.append(f"{count - len(shown)} documents with least are not shown")
    if len(report.attribution.tokens) > TOKENS:
        notes.append(f"{len(report.attribution.tokens) - TOKENS} more tokens on the page of --out")
    return Group(table, Text(" · ".join(notes), "dim"))
