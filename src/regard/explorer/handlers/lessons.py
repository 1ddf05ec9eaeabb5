"""The lesson: the worked example on a few words, and one token in two texts."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from regard.analysis.context_example import MOST_CHARACTERS, TEXT_A, TEXT_B, ContextExample, context_example
from regard.analysis.weight_arithmetic import WorkedExample, worked_example_json
from regard.explorer.handlers.recordings import MOST_TEXT
from regard.explorer.request_parameters import FlagKind, IntegerKind, NumberKind, TextKind, in_query, required_in_query
from regard.explorer.state import Explorer


@dataclass(frozen=True, kw_only=True)
class WordsParameters:
    """The words of the worked example, and its variations."""

    text: str = required_in_query(TextKind(MOST_TEXT), "two to six words")
    tied: bool = in_query(FlagKind(), "whether keys serve as queries", False)
    causal: bool = in_query(FlagKind(), "whether keys after the query are masked", True)
    divisor: float | None = in_query(NumberKind("√d", positive=True), "what scores are divided by; √d by default")


@dataclass(frozen=True, kw_only=True)
class ContextParameters:
    """Two texts, and the head to show first."""

    a: str = in_query(TextKind(MOST_CHARACTERS, empty=True), "a text", TEXT_A)
    b: str = in_query(TextKind(MOST_CHARACTERS, empty=True), "another", TEXT_B)
    layer: int | None = in_query(IntegerKind(), "of the head to begin with; the one most apart by default")
    head: int | None = in_query(IntegerKind(), "with layer")


async def get_worked_example(explorer: Explorer, parameters: WordsParameters, request: Request) -> WorkedExample:
    return worked_example_json(parameters.text, parameters.tied, parameters.causal, parameters.divisor)


async def get_context(explorer: Explorer, parameters: ContextParameters, request: Request) -> ContextExample:
    a, b, layer, head = parameters.a, parameters.b, parameters.layer, parameters.head
    return await explorer.run(request, lambda check: context_example(a, b, layer, head))
