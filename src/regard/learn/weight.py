"""The lesson on one weight of a recording: the same steps as with three words, on a model's own numbers.

The arithmetic is that of the explorer's cell; here are only sentences and drawings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from regard.analysis.layers import Layer
from regard.analysis.strongest_links import strongest_links
from regard.analysis.weight_arithmetic import InputProduct, WeightDerivation, head_outputs, weight_derivation
from regard.analysis.worked_example import Role
from regard.display.text import printable
from regard.errors import OptionError
from regard.learn.drawing import number, say, style
from regard.learn.steps import Drawn, Step
from regard.recording import Recording

LARGEST = 8
"""Products, keys or heads that a table has; what all others come to stands below them."""


def weight_steps(
    run: Recording, *, layer: int = 0, head: int = 0, query: int | None = None, key: int | None = None
) -> list[Step]:
    """How one weight of a recording comes about, screen by screen.

    Args:
        run: The recording.
        layer, head: Whose weight, counted from 0.
        query, key: Which; by default the head's strongest weight, or the query's, on another token.

    Raises:
        OptionError: there is no such layer, head, query or key.
    """
    _within("--layer", layer, len(run))
    recorded = run.layer(layer)
    one = Layer(recorded)
    for name, given, count in (("head", head, one.heads), ("query", query, one.queries), ("key", key, one.keys)):
        _within(f"--{name}", given, count)
    query, key = _chosen(one, head, query, key)
    told = weight_derivation(one, head, query, key)
    return _Told(run, one, layer, head, query, key, told).steps()


def _within(option: str, given: int | None, count: int) -> None:
    if given is not None and not 0 <= given < count:
        what = option.strip("-")
        raise OptionError(
            option, given, f"0 to {count - 1}", f"The recording has {count}; each {what} is counted from 0."
        )


def _chosen(one: Layer, head: int, query: int | None, key: int | None) -> tuple[int, int]:
    """The pair that is asked for, filled in with what is strongest."""
    if query is None:
        if key is not None:
            raise OptionError(
                "--key",
                f"{key} without a query",
                "--query and --key, or --query alone",
                "Say whose weight on it: --query N.",
            )
        found = strongest_links(one, head, 1, False, None, lambda: None)
        if not found:
            raise OptionError(
                "--head", head, "a head with a weight on another token", "Name a pair: --query N --key N."
            )
        return found[0]["query"], found[0]["key"]
    if key is None:
        row = one.row(query)[head].clone()
        if row.numel() > 1 and 0 <= query + one.shift < row.numel():
            row[query + one.shift] = -1
        key = int(row.argmax())
    return query, key


class _Told:
    """What a cell tells, as screens."""

    def __init__(
        self, run: Recording, layer: Layer, number: int, head: int, query: int, key: int, told: WeightDerivation
    ) -> None:
        self.run, self.layer, self.number, self.head = run, layer, number, head
        self.query, self.key, self.told = query, key, told

    def steps(self) -> list[Step]:
        """All of them."""
        made = [
            ("Query, key and value", self._vectors()),
            ("Score: query times key, product by product", self._products()),
            ("Scale, bias and mask", self._score()),
            ("Subtract the maximum, exp, divide by the sum", self._softmax()),
            ("Output: the weighted sum of the values", self._output()),
            ("The other heads", self._heads()),
        ]
        return [Step(title, drawn) for title, drawn in made]

    def _name(self, token: int) -> str:
        tokens = self.run.tokens
        text = "" if tokens is None or token >= len(tokens) else printable(tokens[token])
        text = text.replace("\n", "↵").replace("\t", "⇥")
        return f"{token} “{text[:20]}”" if text else str(token)

    @property
    def _asker(self) -> str:
        return self._name(self.query + max(self.layer.shift, 0))

    def _vectors(self) -> Drawn:
        where = (
            f"In head {self.number}.{self.head} of {self.run.model}, query {self._asker} gives "
            f"{small(self.told['weight'])} of its weight to key {self._name(self.key)}."
        )
        inputs = self.told["inputs"]
        if inputs is None:
            return (
                say(where),
                say(
                    "Query, key and value are linear maps of what the layer read. This recording does "
                    "not hold that: with regard record --inputs this step shows a component of each "
                    "as its sum of products."
                ),
            )
        drawn = list[RenderableType]([say(where)])
        for letter, role, token in (
            ("q", Role.QUERY, self._asker),
            ("k", Role.KEY, self._name(self.key)),
            ("v", Role.VALUE, self._name(self.key)),
        ):
            part = inputs[letter]
            if part is not None:
                drawn += self._projected(letter, role, token, part)
        return tuple(drawn)

    def _projected(self, letter: str, role: Role, token: str, part: InputProduct) -> list[RenderableType]:
        place = part["component"]
        products = [x * w for x, w in zip(part["x"], part["w"], strict=True)]
        head = Text.assemble(
            (f"{letter}[{place}]", f"bold {style(role)}"),
            f" of {token}: the sum of {len(products)} products, the largest first",
        )
        after = f"{letter}[{place}] = {number(part['projected'])}"
        if part["bias"] is not None:
            added = f"{number(part['sum'])} + {number(part['bias'])}"
            after = f"sum + bias = {added} = {number(part['projected'])}"
        if part["between"] and part["recorded"] is not None:
            after += f"; then {' and '.join(part['between'])}: {number(part['recorded'])}"
        elif part["recorded"] is not None:
            after += f"; recorded {number(part['recorded'])}"
        table = _summed(("j", "x", f"W_{letter}"), products, (part["x"], part["w"]), style(role))
        return [head, table, say(after)]

    def _products(self) -> Drawn:
        told = self.told
        if told["dot"] is None:
            return (say("This layer's score is no dot product; the recording gives it whole."),)
        table = _summed(("i", "q", "k"), told["products"], (told["q"], told["k"]), style(Role.SCORE))
        return (
            say(
                f"Query and key have {len(told['products'])} numbers each. The largest products, their "
                "running sum, and what all others add to it:"
            ),
            table,
            say(f"q · k = {number(told['dot'])}"),
        )

    def _score(self) -> Drawn:
        told, drawn = self.told, list[RenderableType]()
        if told["dot"] is not None and told["scale"] is not None and told["scaled"] is not None:
            size, scaled = len(told["products"]), number(told["scaled"])
            usual = math.isclose(told["scale"], size**-0.5, rel_tol=1e-6)
            by = f"÷ √{size}" if usual else f"× {number(told['scale'])}"
            drawn.append(say(f"scaled: {number(told['dot'])} {by} = {scaled}"))
            if told["softcap"] is not None:
                cap, capped = number(told["softcap"]["cap"]), number(told["softcap"]["score"])
                drawn.append(say(f"soft-cap: {cap} × tanh({scaled} ÷ {cap}) = {capped}"))
        if told["bias"]:
            drawn.append(say(f"bias: {number(told['bias'])} is added"))
        if not told["allowed"]:
            drawn.append(say("The mask hides this key from this query: its score is −∞, its weight 0."))
        else:
            drawn.append(say(f"The mask lets the query see this key. Score: {number(told['score'])}"))
        return tuple(drawn)

    def _softmax(self) -> Drawn:
        told, row = self.told, self.told["row"]
        if told["max"] is None:
            return (say("The query sees nothing: all its weights are 0."),)
        order = sorted(range(len(row["keys"])), key=lambda i: -row["weights"][i])[:LARGEST]
        mine = row["keys"].index(self.key)
        if mine not in order:
            order[-1] = mine
        weight = style(Role.WEIGHT)
        table = _table(("key", "score", "− max", "exp", "weight", ""), left=(0, 5))
        for i in order:
            score, share = row["scores"][i], row["weights"][i]
            shifted = score - told["max"]
            table.add_row(
                Text(self._name(row["keys"][i]), f"bold {style(Role.KEY)}" if i == mine else ""),
                number(score),
                number(shifted),
                small(math.exp(shifted)),
                Text(small(share), f"bold {weight}" if i == mine else weight),
                Text("█" * round(24 * share), weight),
            )
        others = 1 - sum(row["weights"][i] for i in order)
        extra = None if told["sink"] is None else told["sink"] / told["sum"]
        table.add_row(Text("all others", "dim"), "", "", "", Text(small(max(others - (extra or 0), 0)), "dim"), "")
        if extra is not None:
            table.add_row(Text("the sink", "dim"), "", "", "", Text(small(extra), "dim"), "")
        drawn: list[RenderableType] = [
            say(f"The largest score of the row is {number(told['max'])}. Less that, and through exp:"),
            table,
        ]
        if told["allowed"]:
            drawn.append(
                Text.assemble(
                    f"weight = {small(told['exp'])} ÷ {number(told['sum'])} = ",
                    (small(told["weight"], 6), f"bold {weight}"),
                )
            )
        apart = abs(told["weight"] - told["exp"] / told["sum"])
        drawn.append(
            say(
                f"The library's own is exp(score − lse), with the lse of the row that was recorded, "
                f"{number(told['lse'])}. The two differ by {small(apart)}."
            )
        )
        return tuple(drawn)

    def _output(self) -> Drawn:
        values = self.told["values"]
        if values is None:
            return (say("This recording holds no values: regard record --values keeps them."),)
        out, row = values["out"], self.told["row"]
        place = max(range(len(out)), key=lambda c: abs(out[c]))
        parts = [w * v[place] for w, v in zip(row["weights"], values["vs"], strict=True)]
        order = sorted(range(len(parts)), key=lambda i: -abs(parts[i]))[:LARGEST]
        table = _table(("key", "weight", f"v[{place}]", "weight × v"), left=(0,))
        for i in order:
            table.add_row(
                self._name(values["keys"][i]),
                Text(small(row["weights"][i]), style(Role.WEIGHT)),
                Text(number(values["vs"][i][place]), style(Role.VALUE)),
                small(parts[i]),
            )
        rest = values["rest"][place] + sum(parts[i] for i in range(len(parts)) if i not in order)
        table.add_row(Text("all others", "dim"), "", "", Text(small(rest), "dim"))
        return (
            say(f"The head's output has {len(out)} numbers. The largest, number {place}, as a sum over keys:"),
            table,
            Text.assemble(f"output[{place}] = ", (number(out[place]), f"bold {style(Role.OUTPUT)}")),
        )

    def _heads(self) -> Drawn:
        table = _table(("head", "score", "weight", ""), left=(0, 3))
        for other in range(min(self.layer.heads, 16)):
            told = self.told if other == self.head else weight_derivation(self.layer, other, self.query, self.key)
            score = told["score"]
            mark = "bold" if other == self.head else ""
            table.add_row(
                Text(f"{self.number}.{other}", mark),
                "−∞" if score is None else number(score),
                Text(small(told["weight"]), f"{mark} {style(Role.WEIGHT)}".strip()),
                Text("█" * round(24 * told["weight"]), style(Role.WEIGHT)),
            )
        drawn: list[RenderableType] = [say("The same two tokens in every head of the layer:"), table]
        projected = head_outputs(self.layer, self.query, None)["projected"]
        if projected is not None:
            terms = [*projected["parts"], *([] if projected["bias"] is None else [projected["bias"]])]
            summed = " + ".join(number(term) for term in terms).replace("+ −", "− ")
            which = f"component {projected['component']} of the layer's output"
            drawn.append(
                say(
                    f"Concatenated and projected, {which} is what each head gives to it, summed: "
                    f"{summed} = {number(projected['out'])}"
                )
            )
        return tuple(drawn)


def small(value: float, decimals: int | None = None) -> str:
    """A number that may be far below 1: a few decimals where they say something, else a power of ten.

    >>> small(0.25), small(0.12345), small(3.2e-7)
    ('0.25', '0.1235', '3.2e−07')
    """
    if value and abs(value) < 0.001:
        return f"{value:.1e}".replace("-", "−")
    return number(value, decimals)


def _table(columns: Sequence[str], left: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i in left else "right", no_wrap=True)
    return table


def _summed(
    names: tuple[str, str, str],
    products: Sequence[float],
    factors: tuple[Sequence[float], Sequence[float]],
    colour: str,
) -> Table:
    """The largest products with their running sum, and what is left."""
    order = sorted(range(len(products)), key=lambda i: -abs(products[i]))[:LARGEST]
    table, total = _table((*names, "product", "sum so far"), left=()), 0.0
    for i in order:
        total += products[i]
        table.add_row(str(i), *(number(one[i]) for one in factors), number(products[i]), number(total))
    rest = len(products) - len(order)
    if rest:
        whole = sum(products)
        last = Text(number(whole), f"bold {colour}")
        table.add_row(Text(f"{rest} others", "dim"), "", "", number(whole - total), last)
    return table
