"""`regard attribute`: which documents a model's answer attended to, printed and as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from regard.analysis.attribution import CAVEAT, attribute, leave_one_out
from regard.analysis.attribution.report import AttributionReport
from regard.cli import attribute_tables
from regard.cli.command import Subparsers
from regard.errors import OptionError
from regard.export import attribution_page
from regard.integrations.pretrained import open_pretrained
from regard.system.atomic_files import writable_path, write_text
from regard.system.text_source import read_source

NEW_TOKENS = 64


def add_parser(commands: Subparsers) -> None:
    """Add the options of `regard attribute`."""
    parser = commands.add_parser(
        "attribute",
        help="see which documents a model's answer attended to",
        description="Ask a causal language model of transformers about documents, and see to which of them, "
        "and to which sentences, each token of its answer attended, by layer and head.",
        epilog=CAVEAT,
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME_OR_PATH", help="its folder, or its name where it was downloaded before"
    )
    parser.add_argument(
        "--context",
        required=True,
        nargs="+",
        action="extend",
        metavar="DOC",
        help="the documents: files, - for standard input, or texts",
    )
    parser.add_argument("--question", required=True, metavar="TEXT", help="what to ask")
    parser.add_argument("--answer", metavar="TEXT", help="an answer to look at, not the model's own")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="how long its own may be (64)")
    parser.add_argument(
        "--template",
        metavar="TEXT_OR_FILE",
        help="a prompt with {documents} and {question}, in place of the model's chat template",
    )
    parser.add_argument("--layer", type=int, metavar="N", help="only this layer, from 0")
    parser.add_argument("--head", type=int, metavar="N", help="only this head of each layer, from 0")
    parser.add_argument(
        "--over",
        choices=("mean", "max"),
        default="mean",
        help="over heads: their mean (default), or what the one gives that gives most",
    )
    parser.add_argument(
        "--check", action="store_true", help="leave out each document in turn: is the answer less likely without?"
    )
    parser.add_argument("--out", metavar="PAGE.html", help="write all of it as one HTML file too")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Ask, show to what the answer attended, and say where the page is."""
    out = None if options.out is None else writable_path(Path(options.out))
    if options.answer is not None and options.new_tokens is not None:
        raise OptionError(
            "--new-tokens", options.new_tokens, "without --answer", "An answer that is given is as long as it is."
        )
    sources = [read_source(given, "--context") for given in options.context]
    template = None if options.template is None else read_source(options.template, "--template").text
    opened = open_pretrained(options.model, "AutoModelForCausalLM")
    new_tokens = NEW_TOKENS if options.new_tokens is None else options.new_tokens
    attribution = attribute(
        opened.model,
        opened.tokenizer,
        [source.text for source in sources],
        options.question,
        answer=options.answer,
        new_tokens=new_tokens,
        template=template,
    )
    attribution.shares(layer=options.layer, head=options.head)  # there is such a layer and head
    left_out = leave_one_out(opened.model, attribution) if options.check else None
    names = [f"text {i}" if source.name == "the given text" else source.name for i, source in enumerate(sources, 1)]
    report = AttributionReport(
        opened.name,
        tuple(names),
        attribution,
        options.answer is None,
        options.layer,
        options.head,
        options.over,
        None if left_out is None else left_out.double().numpy(),
    )
    attribute_tables.show(console, report)
    if out is None:
        console.print("[dim]every token, sentence and head on a page: add[/] --out page.html")
    else:
        size = write_text(attribution_page.page(report), out)
        console.print(f"the page, one file of {size / 2**10:,.0f} KiB, is", end=" ")
        console.print(str(out.resolve()), style="bold", markup=False, soft_wrap=True)
