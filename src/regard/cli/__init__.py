"""The command `regard`: each subcommand is a few lines over the library, and is imported when called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regard.analysis.attribution import CAVEAT
from regard.errors import OptionError, RegardError

if TYPE_CHECKING:
    from rich.console import Console

FAULT, INTERRUPTED = 2, 130


def parser() -> argparse.ArgumentParser:
    """Every option of every subcommand."""
    whole = argparse.ArgumentParser(
        prog="regard", description="Self-attention you can see into: exact, at any length, at full speed."
    )
    whole.add_argument("--version", action="store_true", help="print the version and end")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")

    look = commands.add_parser(
        "look",
        help="see the attention of a model on a text",
        description="See the attention of a model on a text: every head in numbers, and the telling "
        "ones with their strongest links and maps.",
    )
    look.add_argument("what", metavar="FILE", help="a file, - for standard input, or a text")
    look.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="'python' (embedded, the default), what `python -m experiments.train` wrote, or a model of "
        "transformers: its folder, or its name where it was downloaded before",
    )
    look.add_argument("--first", type=int, metavar="N", help="read only the first N tokens")
    look.add_argument("--layer", type=int, metavar="N", help="only this layer, from 0")
    look.add_argument("--head", type=int, metavar="N", help="only this head of each layer, from 0")
    look.add_argument(
        "--out", metavar="PAGE.html", help="write its whole map too, down to single weights, as one HTML file"
    )
    look.set_defaults(run=_look)

    asked = commands.add_parser(
        "attribute",
        help="see which documents a model's answer attended to",
        description="Ask a causal language model of transformers about documents, and see to which of them, "
        "and to which sentences, each token of its answer attended, by layer and head.",
        epilog=CAVEAT,
    )
    asked.add_argument(
        "--model", required=True, metavar="NAME_OR_PATH", help="its folder, or its name where it was downloaded before"
    )
    asked.add_argument(
        "--context",
        required=True,
        nargs="+",
        action="extend",
        metavar="DOC",
        help="the documents: files, - for standard input, or texts",
    )
    asked.add_argument("--question", required=True, metavar="TEXT", help="what to ask")
    asked.add_argument("--answer", metavar="TEXT", help="an answer to look at, not the model's own")
    asked.add_argument("--new-tokens", type=int, metavar="N", help="how long its own may be (64)")
    asked.add_argument(
        "--template",
        metavar="TEXT_OR_FILE",
        help="a prompt with {documents} and {question}, in place of the model's chat template",
    )
    asked.add_argument("--layer", type=int, metavar="N", help="only this layer, from 0")
    asked.add_argument("--head", type=int, metavar="N", help="only this head of each layer, from 0")
    asked.add_argument(
        "--over",
        choices=("mean", "max"),
        default="mean",
        help="over heads: their mean (default), or what the one gives that gives most",
    )
    asked.add_argument(
        "--check", action="store_true", help="leave out each document in turn: is the answer less likely without?"
    )
    asked.add_argument("--out", metavar="PAGE.html", help="write all of it as one HTML file too")
    asked.set_defaults(run=_attribute)

    record = commands.add_parser(
        "record",
        help="keep a run's attention in a file",
        description="Run a model over a text and keep the attention of every layer in a file, of which any "
        "weight and any statistic can be asked later: regard.Recording.open(FILE).",
    )
    record.add_argument("what", metavar="FILE", help="a file, - for standard input, or a text")
    record.add_argument("-o", "--out", required=True, metavar="RUN.safetensors", help="where to keep it")
    record.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="'python' (embedded, the default), or as `regard look` has it",
    )
    record.add_argument("--first", type=int, metavar="N", help="read only the first N tokens")
    record.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="keep rounded numbers; the error is measured and said",
    )
    record.add_argument("--values", action="store_true", help="keep values too, for outputs")
    record.add_argument(
        "--inputs", action="store_true", help="keep what each layer read too, and its maps to q, k, v and back"
    )
    record.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="only these: numbers from 0, or names, with * for anything"
    )
    record.set_defaults(run=_record)

    learn = commands.add_parser(
        "learn",
        help="a worked example with every number",
        description="Self-attention worked by hand: every number from x to the output, of three words or of "
        "a weight of a recording.",
    )
    learn.add_argument(
        "recording", metavar="RECORDING", nargs="?", help="what regard record wrote: the lesson on one of its weights"
    )
    default = {"layer": "", "head": "", "query": "; by default the strongest", "key": "; likewise"}
    for name, more in default.items():
        learn.add_argument(f"--{name}", type=int, metavar="N", help=f"its {name}, from 0{more}")
    learn.add_argument("--text", metavar="WORDS", help="words of your own, instead of the example's")
    learn.add_argument("--step", action="store_true", help="wait for Enter after each step")
    learn.set_defaults(run=_learn)

    explore = commands.add_parser(
        "explore",
        help="see a run's attention in the browser, down to one weight",
        description="Serve a map of a run's attention to this machine's browser: a recording that "
        "`regard record` made (two to compare), a text, which is recorded first and kept, or arrays q and k. "
        "Without any the page opens them.",
    )
    explore.add_argument(
        "what",
        metavar="FILE_OR_TEXT",
        nargs="*",
        help="a recording, a file, - for standard input, a text, or q and k in an .npz or .safetensors file",
    )
    explore.add_argument("--causal", action="store_true", help="with arrays: queries see no later keys")
    explore.add_argument(
        "--scale", type=float, metavar="X", help="with arrays: what q·k is multiplied with; 1/√d by default"
    )
    explore.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="what reads a text: 'python' (embedded), or as `regard look` has it",
    )
    explore.add_argument("--port", type=int, default=0, metavar="N", help="listen there; by default where is free")
    explore.add_argument("--no-browser", dest="browser", action="store_false", help="print the URL, open nothing")
    explore.add_argument("--out", metavar="PAGE.html", help="write it as one HTML file that needs no server, and end")
    explore.add_argument("--layer", type=int, nargs="+", metavar="N", help="with --out: only these layers, from 0")
    explore.add_argument(
        "--head", type=int, nargs="+", metavar="N", help="with --out: only these heads of each layer, from 0"
    )
    explore.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="with --out: in what numbers; by default as recorded while the page is small, "
        "else float16, and the error is measured and said",
    )
    explore.add_argument("--values", action="store_true", help="with --out: keep values too, where they were recorded")
    explore.set_defaults(run=_explore)

    bench = commands.add_parser("bench", help="measure speed and memory here", add_help=False)
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="what runs here, and what does not, and why")
    doctor.set_defaults(run=_doctor)
    return whole


def _look(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.look import main as look

    look(options, console)


def _attribute(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.attribute import main as attribute

    attribute(options, console)


def _record(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.record import main as record

    record(options, console)


def _learn(options: argparse.Namespace, console: Console) -> None:
    from regard.learn import main as learn
    from regard.learn import tell

    which = {name: getattr(options, name) for name in ("layer", "head", "query", "key")}
    which = {name: given for name, given in which.items() if given is not None}
    if options.recording is None:
        if which:
            raise OptionError(
                f"--{next(iter(which))}",
                "no recording",
                "a recording whose weight it names",
                "regard record FILE -o run.safetensors makes one.",
            )
        learn(options.text, options.step, console)
        return
    if options.text is not None:
        raise OptionError("--text", "words and a recording", "one of them", "Leave one out.")
    from regard.learn.weight import weight_steps
    from regard.recording import Recording

    tell(weight_steps(Recording.open(options.recording), **which), options.step, console)


def _explore(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.explore import main as explore

    explore(options, console)


def _bench(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.bench import main as bench

    bench(options.rest)


def _doctor(options: argparse.Namespace, console: Console) -> None:
    from regard.cli.doctor import main as doctor

    doctor(console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for what the caller can mend, 130 for Ctrl-C."""
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    if rest and options.command != "bench":
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    if options.version:
        from importlib.metadata import version

        print(f"regard {version('regard')}")
        return 0
    if options.command is None:
        whole.print_help()
        return FAULT
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader went away (`regard look … | head`): not our fault, and nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    console = Console(highlight=False)
    try:
        options.run(options, console)
    except BrokenPipeError:
        raise
    except (RegardError, OSError) as error:
        print(f"regard {options.command}: {error}", file=sys.stderr)
        return FAULT
    return 0
