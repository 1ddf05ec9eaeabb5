"""`regard record`: record a run of a model over a text in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from regard import recording
from regard.cli.command import Subparsers
from regard.errors import OptionError
from regard.integrations.opening import TextModel, open_model
from regard.integrations.tokenized_text import TokenizedText
from regard.recording import Recording, record, size_in_words
from regard.system.text_source import TextSource, read_source


def add_parser(commands: Subparsers) -> None:
    """Add the options of `regard record`."""
    parser = commands.add_parser(
        "record",
        help="keep a run's attention in a file",
        description="Run a model over a text and keep the attention of every layer in a file, of which any "
        "weight and any statistic can be computed later: regard.Recording.open(FILE).",
    )
    parser.add_argument("what", metavar="FILE", help="a file, - for standard input, or a text")
    parser.add_argument("-o", "--out", required=True, metavar="RUN.safetensors", help="where to keep it")
    parser.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="'python' (embedded, the default), or as `regard look` has it",
    )
    parser.add_argument("--first", type=int, metavar="N", help="read only the first N tokens")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="keep rounded numbers; the error is measured and said",
    )
    parser.add_argument("--values", action="store_true", help="keep values too, for outputs")
    parser.add_argument(
        "--inputs", action="store_true", help="keep what each layer read too, and its maps to q, k, v and back"
    )
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="only these: numbers from 0, or names, with * for anything"
    )
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Record what the options name, say the size before, and in the end what the file holds."""
    path = Path(options.out)
    source = read_source(options.what)
    opened = open_model(options.model)
    tokens = tokenize(opened, source, options.first)
    given: list[str] | None = options.layers
    layers = given and [int(layer) if layer.isdecimal() else layer for layer in given]
    errors = Console(stderr=True)
    columns = (TextColumn("recording"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def on_layer(now: recording.Progress) -> None:
            if not now.done:
                console.print(f"will write about {size_in_words(now.whole)} to", end=" ")
                console.print(str(path), style="bold", markup=False, soft_wrap=True, end="; ")
                console.print(f"{size_in_words(now.free)} are free")
            bar.update(task, completed=now.done, total=now.layers, description=now.layer)

        run = record_text(
            opened,
            source,
            tokens,
            path,
            values=options.values,
            layer_inputs=options.inputs,
            layers=layers,
            progress=on_layer,
            dtype=None if options.dtype is None else recording.DTYPES[options.dtype],
        )
    console.print(str(run), markup=False, soft_wrap=True)


def tokenize(opened: TextModel, source: TextSource, first: int | None) -> TokenizedText:
    """The text as the model reads it, or the first so many tokens of it.

    Raises:
        OptionError: it has no tokens, or more than the model has positions.
    """
    tokens = opened.tokenize(source.text, first)
    if opened.positions is not None and len(tokens) > opened.positions:
        raise OptionError(
            "FILE",
            f"a text of {len(tokens):,} tokens",
            f"up to {opened.positions:,}, the positions of {opened.name}",
            f"Let it read the beginning: --first {opened.positions}.",
        )
    if not len(tokens):
        raise OptionError("FILE", "a text of no tokens", "at least one", "Give it a word.")
    return tokens


def record_text(opened: TextModel, source: TextSource, tokens: TokenizedText, to: Path, **options: Any) -> Recording:
    """Record a run of a model over the tokens that it reads of a text; `options` are those of `regard.record`."""
    return record(
        opened.model,
        opened.inputs(tokens),
        to=to,
        text=source.text[: max(stop for _, stop in tokens.spans)],
        tokens=tokens.texts,
        spans=tokens.spans,
        name=opened.name,
        **options,
    )
