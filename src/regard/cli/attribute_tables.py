"""An attribution in the terminal: where the weight goes, document by document, token by token."""

from __future__ import annotations

import math

from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from regard.analysis.attribution import CAVEAT
from regard.analysis.attribution.summary import AttributionReport
from regard.display.text import printable

COLOURS = "cyan", "yellow", "magenta", "green", "blue", "red"
"""Of documents, in turn; each is named by its number as well."""

LEVELS = "▁▂▃▄▅▆▇█"
TOKENS, SENTENCES = 40, 8


def show(console: Console, told: AttributionReport) -> None:
    """Print all of it."""
    console.print(_opening(told))
    for title, part in (
        (f"where the weight goes, {told.whose}", _rest(told)),
        ("document by document", _documents(told, console)),
        ("the sentences that get most", _sentences(told)),
        ("token by token", _tokens(told, console)),
    ):
        console.print()
        console.print(Rule(title, align="left", style="dim"))
        console.print(part)
    console.print()
    console.print(Text(CAVEAT if told.owed is None else f"{CAVEAT} Here it was made.", "dim"))
    console.print()


def colour(document: int) -> str:
    """Of a document."""
    return COLOURS[document % len(COLOURS)]


def _opening(told: AttributionReport) -> Table:
    found = told.found
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    layers, heads = found.mass.shape[:2]
    grid.add_row("model", f"{told.model}, {layers} layers of {heads} heads")
    documents = f"{len(told.names)} document{'s' * (len(told.names) != 1)}"
    grid.add_row("read", f"{documents}, {len(found.sentences)} sentences; a prompt of {len(found.prompt_ids):,} tokens")
    grid.add_row("question", Text(printable(found.prompt.asked)))
    answer = Text()
    for token, shares in zip(found.tokens, told.documents, strict=True):
        answer.append(printable(token), f"bold {colour(int(shares.argmax()))}")
    grid.add_row("answer", answer)
    mean = float(found.logprobs.mean())
    how = "written by the model, greedily" if told.written else "given"
    grid.add_row(
        "",
        f"{how}; {len(found.tokens)} tokens, {math.exp(mean):.1%} likely each "
        "(geometric mean). Each is in the colour of the document with most weight",
    )
    return grid


def bar(share: float, width: int = 10) -> str:
    """A share as a bar of block characters."""
    full, rest = divmod(round(min(max(share, 0), 1) * width * 8), 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _rest(told: AttributionReport) -> Group:
    grid = Table.grid(padding=(0, 2))
    share = float(told.together.mean())
    grid.add_row("documents", f"{share:6.1%}", Text(bar(share, 30), "cyan"))
    for name, share in told.rest.items():
        why = " where heads rest" if name == "first token" else ""
        grid.add_row(name, f"{share:6.1%}", Text(bar(share, 30) + why, "dim"))
    said = "each by the head that gives it most, so that they need not sum to 100%"
    return Group(grid, *[Text(said, "dim")] * (told.over == "max"))


def _documents(told: AttributionReport, console: Console) -> Group:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    made.add_column("", no_wrap=True, overflow="ellipsis", max_width=28)
    made.add_column("of all", justify="right", no_wrap=True)
    made.add_column("among documents", no_wrap=True)
    made.add_column("layer by layer", no_wrap=True)
    if told.owed is not None:
        made.add_column("left out", justify="right", no_wrap=True)
    made.add_column("strongest heads")
    shares, most = told.documents.mean(0), max(float(told.by_layer.max()), 1e-12)
    for i, (share, part) in enumerate(zip(shares, told.among(shares), strict=True)):
        layers = "".join(LEVELS[min(int(each / most * 8), 7)] for each in told.by_layer[:, i])
        row = [
            Text.assemble((f"{i + 1} ", f"bold {colour(i)}"), printable(told.names[i])),
            f"{share:.1%}",
            Text.assemble(f"{part:4.0%} ", (bar(part), colour(i))),
            layers if console.encoding.lower().startswith("utf") else "",
        ]
        if told.owed is not None:
            row.append(f"{-told.owed[i].sum():+.2f}".replace("-", "−"))
        made.add_row(*row, told.strongest(i))
    caption = f"layer by layer: the highest block is {most:.1%} of a layer's weight"
    if told.owed is not None:
        caption += " · left out: the change of the answer's log probability, in nats, without the document"
    return Group(made, Text(caption, "dim"))


def _sentences(told: AttributionReport) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(justify="right")
    made.add_column(overflow="fold")
    shares = told.among(told.sentences.mean(0))
    for i in (-shares).argsort(kind="stable")[:SENTENCES]:
        number, _ = told.found.sentences[i]
        text = Text(printable(told.sentence(int(i))))
        made.add_row(Text(str(number + 1), f"bold {colour(number)}"), f"{shares[i]:.0%}", text)
    return made


def _tokens(told: AttributionReport, console: Console) -> Group:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    count = len(told.names)
    room = max((console.width - 50) // 7, 1)
    shown = sorted((-told.documents.mean(0)).argsort(kind="stable")[:room].tolist())
    made.add_column("token", no_wrap=True)
    made.add_column("all", justify="right", no_wrap=True)
    for i in shown:
        made.add_column(Text(str(i + 1), f"bold {colour(i)}"), justify="right", no_wrap=True)
    made.add_column("most of all to", no_wrap=True, overflow="ellipsis", ratio=1)
    parts = told.among(told.documents)
    for at, token in enumerate(told.found.tokens[:TOKENS]):
        best = int(told.sentences[at].argmax())
        name = printable(repr(token)[1:-1].strip() or "␣")
        cells = [Text(f"{parts[at, i]:.0%}", colour(i) if parts[at].argmax() == i else "dim") for i in shown]
        made.add_row(Text(name), f"{told.together[at]:.0%}", *cells, Text(printable(told.sentence(best)), "dim"))
    said = ["all: what of the token's weight goes to documents; then the documents' shares of that"]
    if len(shown) < count:
        said.append(f"{count - len(shown)} documents with least are not shown")
    if len(told.found.tokens) > TOKENS:
        said.append(f"{len(told.found.tokens) - TOKENS} more tokens on the page of --out")
    return Group(made, Text(" · ".join(said), "dim"))
