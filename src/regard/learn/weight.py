"""The lesson on one weight of a recording: the same steps as with three words, on a model's own numbers.

The arithmetic is `analysis.weight_arithmetic`; here are only sentences and drawings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
"""Products, keys or heads in a table; its last row has the sum of all others."""


def weight_steps(
    run: Recording, *, layer: int = 0, head: int = 0, query: int | None = None, key: int | None = None
) -> list[Step]:
    """How one weight of a recording comes about, screen by screen.

    Args:
        run: The recording.
        layer, head: Counted from 0.
        query, key: The pair; by default that of the head's strongest weight, or the query's, on another token.

    Raises:
        OptionError: there is no such layer, head, query or key.
    """
    _within("--layer", layer, len(run))
    recorded = run.layer(layer)
    analysed = Layer(recorded)
    for name, given, count in (
        ("head", head, analysed.heads),
        ("query", query, analysed.queries),
        ("key", key, analysed.keys),
    ):
        _within(f"--{name}", given, count)
    query, key = _chosen(analysed, head, query, key)
    derivation = weight_derivation(analysed, head, query, key)
    return _Screens(run, analysed, layer, head, query, key, derivation).steps()


def _within(option: str, given: int | None, count: int) -> None:
    if given is not None and not 0 <= given < count:
        what = option.strip("-")
        raise OptionError(
            option, given, f"0 to {count - 1}", f"The recording has {count}; each {what} is counted from 0."
        )


def _chosen(layer: Layer, head: int, query: int | None, key: int | None) -> tuple[int, int]:
    """The given pair, completed by the strongest weight."""
    if query is None:
        if key is not None:
            raise OptionError(
                "--key",
                f"{key} without a query",
                "--query and --key, or --query alone",
                "Say whose weight on it: --query N.",
            )
        links = strongest_links(layer, head, 1, False, None, lambda: None)
        if not links:
            raise OptionError(
                "--head", head, "a head with a weight on another token", "Name a pair: --query N --key N."
            )
        return links[0]["query"], links[0]["key"]
    if key is None:
        row = layer.row(query)[head].clone()
        if row.numel() > 1 and 0 <= query + layer.shift < row.numel():
            row[query + layer.shift] = -1
        key = int(row.argmax())
    return query, key


class _Screens:
    """The derivation of a weight, screen by screen."""

    def __init__(
        self, run: Recording, layer: Layer, number: int, head: int, query: int, key: int, derivation: WeightDerivation
    ) -> None:
        self.run, self.layer, self.number, self.head = run, layer, number, head
        self.query, self.key, self.derivation = query, key, derivation

    def steps(self) -> list[Step]:
        """All screens."""
        screens = [
            ("Query, key and value", self._vectors()),
            ("Score: query times key, product by product", self._products()),
            ("Scale, bias and mask", self._score()),
            ("Subtract the maximum, exp, divide by the sum", self._softmax()),
            ("Output: the weighted sum of the values", self._output()),
            ("The other heads", self._heads()),
        ]
        return [Step(title, drawn) for title, drawn in screens]

    def _name(self, token: int) -> str:
        tokens = self.run.tokens
        text = "" if tokens is None or token >= len(tokens) else printable(tokens[token])
        text = text.replace("\n", "↵").replace("\t", "⇥")
        return f"{token} “{text[:20]}”" if text else str(token)

    @property
    def _query_name(self) -> str:
        return self._name(self.query + max(self.layer.shift, 0))

    def _vectors(self) -> Drawn:
        where = (
            f"In head {self.number}.{self.head} of {self.run.model}, query {self._query_name} gives "
            f"{small(self.derivation['weight'])} of its weight to key {self._name(self.key)}."
        )
        inputs = self.derivation["inputs"]
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
            ("q", Role.QUERY, self._query_name),
            ("k", Role.KEY, self._name(self.key)),
            ("v", Role.VALUE, self._name(self.key)),
        ):
            part = inputs[letter]
            if part is not None:
                drawn += self._projected(letter, role, token, part)
        return tuple(drawn)

    def _projected(self, letter: str, role: Role, token: str, part: InputProduct) -> list[RenderableType]:
        component = part["component"]
        products = [x * w for x, w in zip(part["x"], part["w"], strict=True)]
        head = Text.assemble(
            (f"{letter}[{component}]", f"bold {style(role)}"),
            f" of {token}: the sum of {len(products)} products, the largest first",
        )
        after = f"{letter}[{component}] = {number(part['projected'])}"
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
        derivation = self.derivation
        if derivation["dot"] is None:
            return (say("This layer's score is no dot product; the recording gives it whole."),)
        table = _summed(("i", "q", "k"), derivation["products"], (derivation["q"], derivation["k"]), style(Role.SCORE))
        return (
            say(
                f"Query and key have {len(derivation['products'])} numbers each. The largest products, their "
                "running sum, and what all others add to it:"
            ),
            table,
            say(f"q · k = {number(derivation['dot'])}"),
        )

    def _score(self) -> Drawn:
        derivation, drawn = self.derivation, list[RenderableType]()
        if derivation["dot"] is not None and derivation["scale"] is not None and derivation["scaled"] is not None:
            size, scaled = len(derivation["products"]), number(derivation["scaled"])
            usual = math.isclose(derivation["scale"], size**-0.5, rel_tol=1e-6)
            by = f"÷ √{size}" if usual else f"× {number(derivation['scale'])}"
            drawn.append(say(f"scaled: {number(derivation['dot'])} {by} = {scaled}"))
            if derivation["softcap"] is not None:
                cap, capped = number(derivation["softcap"]["cap"]), number(derivation["softcap"]["score"])
                drawn.append(say(f"soft-cap: {cap} × tanh({scaled} ÷ {cap}) = {capped}"))
        if derivation["bias"]:
            drawn.append(say(f"bias: {number(derivation['bias'])} is added"))
        if not derivation["allowed"]:
            drawn.append(say("The mask hides this key from this query: its score is −∞, its weight 0."))
        else:
            drawn.append(say(f"The mask lets the query see this key. Score: {number(derivation['score'])}"))
        return tuple(drawn)

    def _softmax(self) -> Drawn:
        derivation, row = self.derivation, self.derivation["row"]
        if derivation["max"] is None:
            return (say("The query sees nothing: all its weights are 0."),)
        order = sorted(range(len(row["keys"])), key=lambda i: -row["weights"][i])[:LARGEST]
        own = row["keys"].index(self.key)
        if own not in order:
            order[-1] = own
        weight = style(Role.WEIGHT)
        table = _table(("key", "score", "− max", "exp", "weight", ""), left=(0, 5))
        for i in order:
            score, share = row["scores"][i], row["weights"][i]
            shifted = score - derivation["max"]
            table.add_row(
                Text(self._name(row["keys"][i]), f"bold {style(Role.KEY)}" if i == own else ""),
                number(score),
                number(shifted),
                small(math.exp(shifted)),
                Text(small(share), f"bold {weight}" if i == own else weight),
                Text("█" * round(24 * share), weight),
            )
        others = 1 - sum(row["weights"][i] for i in order)
        extra = None if derivation["sink"] is None else derivation["sink"] / derivation["sum"]
        table.add_row(Text("all others", "dim"), "", "", "", Text(small(max(others - (extra or 0), 0)), "dim"), "")
        if extra is not None:
            table.add_row(Text("the sink", "dim"), "", "", "", Text(small(extra), "dim"), "")
        drawn: list[RenderableType] = [
            say(f"The largest score of the row is {number(derivation['max'])}. Less that, and through exp:"),
            table,
        ]
        if derivation["allowed"]:
            drawn.append(
                Text.assemble(
                    f"weight = {small(derivation['exp'])} ÷ {number(derivation['sum'])} = ",
                    (small(derivation["weight"], 6), f"bold {weight}"),
                )
            )
        difference = abs(derivation["weight"] - derivation["exp"] / derivation["sum"])
        drawn.append(
            say(
                f"The library's own is exp(score − lse), with the lse of the row that was recorded, "
                f"{number(derivation['lse'])}. The two differ by {small(difference)}."
            )
        )
        return tuple(drawn)

    def _output(self) -> Drawn:
        values = self.derivation["values"]
        if values is None:
            return (say("This recording holds no values: regard record --values keeps them."),)
        out, row = values["out"], self.derivation["row"]
        largest = max(range(len(out)), key=lambda c: abs(out[c]))
        parts = [w * v[largest] for w, v in zip(row["weights"], values["vs"], strict=True)]
        order = sorted(range(len(parts)), key=lambda i: -abs(parts[i]))[:LARGEST]
        table = _table(("key", "weight", f"v[{largest}]", "weight × v"), left=(0,))
        for i in order:
            table.add_row(
                self._name(values["keys"][i]),
                Text(small(row["weights"][i]), style(Role.WEIGHT)),
                Text(number(values["vs"][i][largest]), style(Role.VALUE)),
                small(parts[i]),
            )
        rest = values["rest"][largest] + sum(parts[i] for i in range(len(parts)) if i not in order)
        table.add_row(Text("all others", "dim"), "", "", Text(small(rest), "dim"))
        return (
            say(f"The head's output has {len(out)} numbers. The largest, number {largest}, as a sum over keys:"),
            table,
            Text.assemble(f"output[{largest}] = ", (number(out[largest]), f"bold {style(Role.OUTPUT)}")),
        )

    def _heads(self) -> Drawn:
        table = _table(("head", "score", "weight", ""), left=(0, 3))
        for other in range(min(self.layer.heads, 16)):
            derivation = (
                self.derivation if other == self.head else weight_derivation(self.layer, other, self.query, self.key)
            )
            score = derivation["score"]
            mark = "bold" if other == self.head else ""
            table.add_row(
                Text(f"{self.number}.{other}", mark),
                "−∞" if score is None else number(score),
                Text(small(derivation["weight"]), f"{mark} {style(Role.WEIGHT)}".strip()),
                Text("█" * round(24 * derivation["weight"]), style(Role.WEIGHT)),
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
    """A number that may be far below 1: with a few decimals or, below 0.001, as a power of ten.

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
        table.add_row(str(i), *(number(factor[i]) for factor in factors), number(products[i]), number(total))
    rest = len(products) - len(order)
    if rest:
        grand_total = sum(products)
        last = Text(number(grand_total), f"bold {colour}")
        table.add_row(Text(f"{rest} others", "dim"), "", "", number(grand_total - total), last)
    return table
