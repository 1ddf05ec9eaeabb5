"""`regard attribute`, from its options to what it prints and writes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from regard.analysis.attribution import attribute, leave_one_out
from regard.analysis.attribution.summary import AttributionReport
from regard.cli import attribute_tables
from regard.errors import OptionError
from regard.export import attribution_page
from regard.integrations.pretrained import open_pretrained
from regard.system.atomic_files import writable_path, write_text
from regard.system.text_source import read

NEW_TOKENS = 64


def main(options: Namespace, console: Console) -> None:
    """Ask, show to what the answer attended, and say where the page is."""
    out = None if options.out is None else writable_path(Path(options.out))
    if options.answer is not None and options.new_tokens is not None:
        raise OptionError(
            "--new-tokens", options.new_tokens, "without --answer", "An answer that is given is as long as it is."
        )
    sources = [read(given, "--context") for given in options.context]
    template = None if options.template is None else read(options.template, "--template").text
    opened = open_pretrained(options.model, "AutoModelForCausalLM")
    new_tokens = NEW_TOKENS if options.new_tokens is None else options.new_tokens
    found = attribute(
        opened.model,
        opened.tokenizer,
        [source.text for source in sources],
        options.question,
        answer=options.answer,
        new_tokens=new_tokens,
        template=template,
    )
    found.shares(layer=options.layer, head=options.head)  # there is such a layer and head
    owed = leave_one_out(opened.model, found) if options.check else None
    names = [f"text {i}" if source.name == "the given text" else source.name for i, source in enumerate(sources, 1)]
    told = AttributionReport(
        opened.name,
        tuple(names),
        found,
        options.answer is None,
        options.layer,
        options.head,
        options.over,
        None if owed is None else owed.double().numpy(),
    )
    attribute_tables.show(console, told)
    if out is None:
        console.print("[dim]every token, sentence and head on a page: add[/] --out page.html")
    else:
        size = write_text(attribution_page.page(told), out)
        console.print(f"the page, one file of {size / 2**10:,.0f} KiB, is", end=" ")
        console.print(str(out.resolve()), style="bold", markup=False, soft_wrap=True)
