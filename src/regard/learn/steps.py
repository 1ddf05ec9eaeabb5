"""What the lesson says, screen by screen: sentences chosen by the numbers at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from regard.analysis import worked_example
from regard.analysis.worked_example import COLOURS, HEADS, Lesson, Matrix, Role, WorkedHead
from regard.attend import attention
from regard.learn.drawing import (
    Beside,
    Equations,
    maps,
    named,
    number,
    pairs,
    say,
    shown_rows,
    style,
    table,
    vector,
    vectors,
)
from regard.spec.masks import Causal


@dataclass(frozen=True)
class Step:
    """One screen: a title, what is drawn under it, and the numbers that the step computes."""

    title: str
    drawn: tuple[RenderableType, ...]
    numbers: Matrix = ()


def steps(lesson: Lesson) -> list[Step]:
    """The lesson, screen by screen."""
    head, second = lesson.heads
    return [
        Step("Words become vectors", _embeddings(lesson), lesson.x),
        Step("Three maps make a query, a key and a value", _projections(lesson, head), (*head.q, *head.k, *head.v)),
        Step("Scores: how well does each query fit each key?", _scores(lesson, head), head.scores),
        Step("Divide by √d", _scaling(lesson, head), ((head.divisor,), *head.scaled)),
        Step("Causal mask: no word sees the words after it", _masking(lesson, head), head.masked),
        Step("Subtract the maximum of the row", _shifting(lesson, head), (head.maxima, *head.shifted)),
        Step("exp makes every number positive", _exponentials(lesson, head), (*head.exps, head.sums)),
        Step("Divide by the sum: the weights", _weights(lesson, head), head.weights),
        Step("Output: the weighted sum of the values", _output(lesson, head), head.out),
        Step("Why separate query, key and value vectors?", _why_three(lesson, head)),
        Step("How does attention help a model understand context?", _context(lesson)),
        Step(
            "A second head, at the same time",
            _second(lesson),
            (
                *second.q,
                *second.k,
                *second.v,
                *second.scores,
                *second.scaled,
                second.maxima,
                *second.shifted,
                *second.exps,
                second.sums,
                *second.weights,
                *second.out,
            ),
        ),
        Step("Concatenate the heads and project", _together(lesson), lesson.out),
        Step("What to try next", _next()),
    ]


Drawn = tuple[RenderableType, ...]


def _embeddings(lesson: Lesson) -> Drawn:
    if lesson.chosen:
        first, second = worked_example.FEATURES
        meaning = (
            f"x₁ says how much the word is about {first}, x₂ how much about {second}. They were chosen "
            "by hand, so that you can check every step; a model learns its own."
        )
        if lesson.words[-1] == "bank":
            meaning += " “bank” by itself could be either."
    else:
        meaning = (
            "These numbers are made up from the letters of your words, always the same for the same "
            "word. They come from no trained model and mean nothing; the arithmetic is true."
        )
    legend = Text.assemble("One colour for each role: ", *_spread((role.value, style(role)) for role in COLOURS))
    return (
        say(
            "Self-attention lets every word gather what it needs from the others. Here is all of it: "
            f"{len(lesson.words)} words, {worked_example.SIZE} numbers for each, and nothing left out. "
            "The vector x of a word is called its embedding."
        ),
        table(lesson.labels, ("x₁", "x₂"), lesson.x),
        say(meaning),
        legend,
        say("Numbers with four decimals, and sums with ≈, are rounded. All others are exact."),
    )


def _projections(lesson: Lesson, head: WorkedHead) -> Drawn:
    meant = (
        (Role.QUERY, "what the word looks for", "q = x · W_q", head.q),
        (Role.KEY, "what the word is found by", "k = x · W_k", head.k),
        (Role.VALUE, "what the word passes on when it is found", "v = x · W_v", head.v),
    )
    blocks = [
        Group(Text.assemble((role.value, f"bold {style(role)}"), f": {why}.  {formula}"), Equations(shown_rows(rows)))
        for role, why, formula, rows in meant
    ]
    return (
        say("Three maps, the same for every word. In a model they are what the head has learned."),
        maps(head),
        say("Each component is a sum of products: the two numbers of x times a column of the map."),
        *blocks,
        say("All of them:" if shown_rows(head.q) is head.q else "The other words likewise. All of them:"),
        vectors(lesson, head),
    )


def _scores(lesson: Lesson, head: WorkedHead) -> Drawn:
    return (
        say(
            "A score is the dot product of one word's query with another's key. A large one: they fit. "
            "One below zero: they point apart."
        ),
        Equations(shown_rows(head.scores)),
        say(f"{_fits(lesson, head)} The same as a table, a row for each query and a column for each key:"),
        pairs(lesson, head.scores),
    )


def _scaling(lesson: Lesson, head: WorkedHead) -> Drawn:
    plain = Lesson.of(" ".join(lesson.words), divisor=1.0).heads[0]
    compared = table(
        ("with ÷ √d", "without"),
        lesson.labels,
        (head.weights[-1], plain.weights[-1]),
        style(Role.WEIGHT),
        corner=f"“{lesson.labels[-1]}” on",
    )
    return (
        say(
            "The more numbers a dot product adds up, the larger it gets, up or down: it grows as √d, d "
            f"being their count. So every score is divided by √{worked_example.SIZE} = {number(head.divisor.value)}…"
        ),
        pairs(lesson, head.scaled),
        say(f"Without this, the weights of “{lesson.labels[-1]}” (step 8) would be less even:"),
        compared,
        say(
            "With d = 64, as in many models, scores would be 8 times as large: one weight near 1, all "
            "others near 0, and hardly any gradient left to learn from."
        ),
    )


def _masking(lesson: Lesson, head: WorkedHead) -> Drawn:
    return (
        say(
            "A model that predicts the next word must not look ahead. A query may see the keys up to its "
            "own place; the scores of later ones become −∞, which will make their weights 0."
        ),
        pairs(lesson, head.masked),
        say(f"“{lesson.labels[0]}” sees itself alone; “{lesson.labels[-1]}” sees all {len(lesson.words)} words."),
    )


def _shifting(lesson: Lesson, head: WorkedHead) -> Drawn:
    return (
        say(
            "This changes no weight in the end. But exp(1000) is too large for a computer, and after this "
            "step no number is above 0."
        ),
        pairs(lesson, head.shifted, ("maximum", head.maxima)),
    )


def _exponentials(lesson: Lesson, head: WorkedHead) -> Drawn:
    return (
        say("The best key gets exp(0) = 1. Each 0.7 less about halves it. exp(−∞) = 0."),
        pairs(lesson, head.exps, ("sum", head.sums)),
    )


def _weights(lesson: Lesson, head: WorkedHead) -> Drawn:
    bars = Table.grid(padding=(0, 1))
    for label, weight in zip(lesson.labels, head.weights[-1], strict=True):
        above, below = (number(operand.value) for operand in weight.operands)
        bars.add_row(
            Text(f"{lesson.labels[-1]} → {label}"),
            Text(above, justify="right"),
            Text(f"÷ {below} ="),
            Text(number(weight.value), f"bold {style(Role.WEIGHT)}", justify="right"),
            Text("█" * round(24 * weight.value), style(Role.WEIGHT)),
        )
    return (
        say(
            "Now every weight lies between 0 and 1, and each row sums to 1. (Steps 6 to 8 together are called softmax.)"
        ),
        pairs(lesson, head.weights, colour=style(Role.WEIGHT)),
        bars,
        say(_most(lesson, head)),
    )


def _output(lesson: Lesson, head: WorkedHead) -> Drawn:
    x, o, word = lesson.x[-1], head.out[-1], lesson.labels[-1]
    moved = f"“{word}” went in as {vector(x)} and comes out as {vector(o)}."
    if lesson.chosen and x[0].value == x[1].value and o[0].value != o[1].value:
        more = worked_example.FEATURES[0 if o[0].value > o[1].value else 1]
        moved += f" Its context has decided: this “{word}” is about {more}."
    q, k, v = (worked_example.values(rows)[None, None] for rows in (head.q, head.k, head.v))
    library = attention(q, k, v, mask=Causal(), backend="reference")[0, 0]
    apart = (library - worked_example.values(head.out)).abs().max().item()
    return (
        say("Each word adds up the values of the words that it sees, each times its weight."),
        Equations(shown_rows(head.out)),
        table(lesson.labels, ("o₁", "o₂"), head.out, style(Role.OUTPUT)),
        say(moved),
        say(
            "The library agrees: regard.attention(q, k, v, mask=Causal()) gives this table; the largest "
            f"difference is {f'{apart:.0e}' if apart else '0'}."
        ),
    )


def _why_three(lesson: Lesson, head: WorkedHead) -> Drawn:
    tied = Lesson.of(" ".join(lesson.words), heads=(HEADS[0].tied(),)).heads[0]
    me, scores = len(lesson.words) - 1, head.scores
    other = max(range(me), key=lambda j: abs(scores[me][j].value - scores[j][me].value))
    i, j = (me, other) if scores[me][other].value >= scores[other][me].value else (other, me)
    a, b = lesson.labels[i], lesson.labels[j]
    compared = table(
        ("query · key", "key · key"),
        (f"{a} → {b}", f"{b} → {a}"),
        tuple((each.scores[i][j], each.scores[j][i]) for each in (head, tied)),
        corner="score by",
    )
    forth, back = (number(score.value) for score in (head.scores[i][j], head.scores[j][i]))
    return (
        say(
            f"Query and key: to look for something is not to be found. “{a}” looking for “{b}” scores "
            f"{forth}; “{b}” looking for “{a}” scores {back}. Tie the two, with the key as the query "
            "too, and both scores are the same, whatever the words and the maps, since a·b = b·a:"
        ),
        compared,
        say("A relation with a direction, such as from a verb to its subject, could no longer be learned."),
        say(
            f"Key and value: what a word is found by is not what it has to say. “{b}” is found by its key "
            f"{vector(head.k[j])} and passes on its value {vector(head.v[j])}. With one vector for both, a "
            "head could pass on nothing but what it matched."
        ),
    )


def _context(lesson: Lesson) -> Drawn:
    words, me = list(lesson.words), len(lesson.words) - 1
    place = max(range(me), key=lambda j: lesson.heads[0].weights[me][j].value)
    old = lesson.labels[place]
    new = "river" if words[place].casefold() == "money" else "money"
    other = Lesson.of(" ".join([*words[:place], new, *words[place + 1 :]]))
    compared = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    weight, output = style(Role.WEIGHT), style(Role.OUTPUT)
    for name, colour in (("text", ""), ("x", ""), ("weight", weight), ("output", output)):
        compared.add_column(Text(name, colour))
    for example in (lesson, other):
        on_place = example.heads[0].weights[me][place]
        compared.add_row(
            Text(" ".join(example.labels)),
            vector(example.x[me]),
            Text(f"{number(on_place.value)} on {example.labels[place]}", weight),
            Text(vector(example.heads[0].out[me]), output),
        )
    word = lesson.labels[me]
    drawn: list[RenderableType] = [
        say(f"Change “{old}” to “{new}”, work it all through again, and look at the last word, “{word}”:"),
        compared,
        say(
            "The same word and the same x go in; another vector comes out. What the next layer reads is "
            f"no longer “{word}”, but “{word}” in this text."
        ),
    ]
    if len(set(words)) < len(words):
        drawn.append(
            say(
                "A word that stands here twice has the same query, key and value both times: without "
                "positions only the mask tells them apart. Models add positions (regard.positions)."
            )
        )
    return tuple(drawn)


def _second(lesson: Lesson) -> Drawn:
    first, second = lesson.heads
    weights, output = style(Role.WEIGHT), style(Role.OUTPUT)
    return (
        say(
            "One head asks one question of a text. A second head, with maps of its own, asks another one of the same x:"
        ),
        maps(second),
        vectors(lesson, second),
        say(f"Its scores for “{lesson.labels[-1]}”, and as a table before and after ÷ √d:"),
        Equations(second.scores[-1:]),
        Beside(pairs(lesson, second.scores, corner="scores"), pairs(lesson, second.scaled, corner="scaled")),
        say("Mask and softmax as before. The weights of head 1 and of head 2:"),
        Beside(
            pairs(lesson, first.weights, colour=weights, corner="head 1"),
            pairs(lesson, second.weights, colour=weights, corner="head 2"),
        ),
        say(f"{_most(lesson, first, ' in head 1')} {_most(lesson, second, ' in head 2')}"),
        say("The output of head 2:"),
        Equations(shown_rows(second.out)),
        table(lesson.labels, ("o₁", "o₂"), second.out, output),
    )


def _together(lesson: Lesson) -> Drawn:
    output = style(Role.OUTPUT)
    return (
        say(
            "The outputs of both heads stand side by side, four numbers for each word. A last learned map, "
            "W_o, mixes them into as many numbers as x has:"
        ),
        Beside(
            table(lesson.labels, ("head 1", "", "head 2", ""), lesson.concat, output), named("W_o", lesson.w_o, output)
        ),
        Equations(shown_rows(lesson.out)),
        table(lesson.labels, ("out₁", "out₂"), lesson.out, output),
        say(
            "That is multi-head self-attention, whole. Models do the same with more: GPT-2 has 12 heads, "
            "64 numbers in each query, key and value, and 12 such layers."
        ),
    )


def _next() -> Drawn:
    tries = Table.grid(padding=(0, 2))
    for command, what in (
        ("regard look FILE.py", "the attention of a trained model on real code"),
        ('regard learn --text "the money bank"', "this lesson on another text"),
        ("regard learn --step", "one step at a time"),
    ):
        tries.add_row(Text(command, "bold"), what)
    return (tries,)


def _most(lesson: Lesson, head: WorkedHead, where: str = "") -> str:
    row = [number.value for number in head.weights[-1]]
    place = max(range(len(row)), key=lambda j: row[j])
    me = lesson.labels[-1]
    whom = "itself" if place == len(row) - 1 else f"“{lesson.labels[place]}”"
    return f"“{me}” gives the most weight{where} to {whom}: {row[place]:.0%}."


def _fits(lesson: Lesson, head: WorkedHead) -> str:
    row = [number.value for number in head.scores[-1]]
    place = max(range(len(row)), key=lambda j: row[j])
    whom = "its own key" if place == len(row) - 1 else f"the key of “{lesson.labels[place]}”"
    return f"The query of “{lesson.labels[-1]}” fits {whom} best."


def _spread(parts: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for part in parts:
        yield part
        yield ("  ", "")
