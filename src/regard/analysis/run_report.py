"""What `regard look` shows of a recorded run: the exact statistics, strongest keys and small maps of every head.

Nothing here is n × n: statistics are observers of the recorded layers, and only one layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from regard.analysis.head_maps import HeadMap, maps_by_distance
from regard.analysis.head_statistics import LayerStatistics, token_ids
from regard.analysis.layers import Layer
from regard.analysis.uniform_baseline import UniformBaseline, uniform_baseline
from regard.errors import OptionError
from regard.integrations.tokenized_text import TokenizedText
from regard.recording import Recording
from regard.spec.masks import Mask, Window
from regard.spec.observers import Pooled, Top
from regard.system.text_source import TextSource

PROSE_LINE = 30
"""Tokens in a line, on average, from which on a text is prose and not code."""

CELLS = 128
"""Rows and columns of a head's map, at most."""

OnLayer = Callable[[int, int], None]
"""Called with how many layers are done, and of how many."""


class Ahead(NamedTuple):
    """Means of a head that sees keys after the query, as those of encoders do; as in `head_statistics`."""

    following: float
    """Mean weight on the token just after."""
    last: float
    """Mean weight on the last token of the text, where encoders often rest (Clark et al., 2019)."""


@dataclass(frozen=True, eq=False)
class HeadReport:
    """One head's weights over the whole text. Means are over the queries that may see more than one key."""

    layer: int
    head: int
    entropy: float
    """Mean of entropy ÷ log(visible keys): 0 is one key, 1 is all alike."""
    support: float
    """Mean of e^entropy: the effective number of keys."""
    previous: float
    """Mean weight on the token just before."""
    first: float
    """Mean weight on the first token of the text."""
    ahead: Ahead | None
    """None where queries see nothing after themselves."""
    distance: float
    """Mean distance between query and key, in tokens."""
    visible: Int[ndarray, " n"]
    """How many keys each query may see."""
    received: Float[ndarray, " n"]
    """The weight that each token receives from all queries."""
    uniform: Float[ndarray, " n"]
    """What it would receive if all queries spread their weight evenly."""
    keys: Int[ndarray, "n links"]
    """The strongest keys of each query; −1 where there are fewer."""
    weights: Float[ndarray, "n links"]
    """The weights of these keys."""
    map: HeadMap
    scores: Float[ndarray, " criteria"]
    """By the criteria of `head_ranking`."""

    @property
    def name(self) -> str:
        """Layer and head, both from 0."""
        return f"{self.layer}.{self.head}"

    @property
    def collector(self) -> int:
        """The token that receives most beyond what it would receive evenly."""
        return int((self.received - self.uniform).argmax())


@dataclass(frozen=True, eq=False)
class RunReport:
    """A run of a model over a text."""

    source: TextSource
    model: str
    tokens: TokenizedText
    heads: list[HeadReport]
    visibility: list[str]
    """As text, what each layer of the model may see."""
    heads_per_layer: int
    seconds: float = 0.0
    peak: int = 0
    """The greatest resident memory of the process, in bytes."""

    @property
    def ahead(self) -> bool:
        """Whether queries of some head see keys after themselves."""
        return any(head.ahead for head in self.heads)

    @property
    def prose(self) -> bool:
        """Whether lines are so long that a place in the text is better named by its token."""
        return len(self.tokens) / len(np.unique(self.tokens.lines)) > PROSE_LINE

    def position(self, token: int) -> int:
        """Where a token is: its line or, in prose, its number among the tokens."""
        return token if self.prose else int(self.tokens.lines[token])


@torch.no_grad()
def run_report(
    run: Recording,
    source: TextSource,
    tokens: TokenizedText,
    *,
    layer: int | None = None,
    head: int | None = None,
    on_layer: OnLayer | None = None,
) -> RunReport:
    """Analyse a run over a text: all heads, those of one layer, or one.

    Args:
        run: The recorded run.
        source, tokens: The text, and the tokens that the model read.
        layer, head: Only this layer, only this head of each layer; from 0.
        on_layer: Called after each layer.

    Raises:
        OptionError: the model has no such layer or head.
    """
    counts = [recorded.heads for recorded in run]
    _check_number("--layer", layer, len(counts))
    _check_number("--head", head, max(counts) if layer is None else counts[layer])
    ids = token_ids(run.tokens)
    heads, visibility = list[HeadReport](), list[str]()
    for number in range(len(run)):
        # Through a reader of its own, so that what is mapped of it is released with it.
        analysed = Layer(Recording.open(run.path).layer(number))
        if layer in (None, number):
            reports, baseline = _head_reports(number, analysed, ids)
            heads += [report for report in reports if head in (None, report.head)]
        else:
            problem = analysed.weights.problem
            baseline = uniform_baseline(problem.mask, problem.sizes)
        visibility.append(_visibility(analysed.recorded.mask, baseline))
        if on_layer is not None:
            on_layer(number + 1, len(run))
    return RunReport(source, run.model, tokens, heads, visibility, max(counts))


def _head_reports(
    number: int, layer: Layer, ids: Int[ndarray, " n"] | None
) -> tuple[list[HeadReport], UniformBaseline]:
    statistics = LayerStatistics(layer, ids)
    baseline, queries = statistics.baseline, range(layer.queries)
    by_distance = _is_band(baseline)
    observers = [Pooled(1, layer.keys, "sum"), *([] if by_distance else [Pooled(CELLS, CELLS, "max")])]
    results, (received, *pooled) = layer.statistics(queries, statistics.observers(queries), observers)
    top = statistics.add(queries, results)
    statistics.received += received[:, 0]
    maps = maps_by_distance(layer.weights, CELLS, int(baseline.visible.max()))[0] if by_distance else pooled[0]
    reports = [
        _head_report(number, head, statistics, top, HeadMap(_array(values), by_distance))
        for head, values in enumerate(maps)
    ]
    return reports, baseline


def _is_band(baseline: UniformBaseline) -> bool:
    """Whether a map of keys would show a thin line along the diagonal and nothing else."""
    reach, queries = int(baseline.visible.max()), baseline.visible.shape[1]
    return not baseline.ahead and reach <= CELLS and 4 * reach <= queries


def _head_report(layer: int, head: int, statistics: LayerStatistics, top: Top, map_: HeadMap) -> HeadReport:
    means, baseline = statistics.means, statistics.baseline
    return HeadReport(
        layer,
        head,
        entropy=float(means.entropy[head]),
        support=float(means.support[head]),
        previous=float(means.previous[head]),
        first=float(means.first[head]),
        ahead=Ahead(float(means.next[head]), float(means.last[head])) if baseline.ahead else None,
        distance=float(means.distance[head]),
        visible=baseline.visible[head],
        received=_array(statistics.received[head]),
        uniform=baseline.share[head],
        keys=_array(top.keys[head]).astype(np.int32),
        weights=_array(top.weights[head]),
        map=map_,
        scores=statistics.scores[head],
    )


def _array(tensor: Tensor) -> ndarray:
    return tensor.float().cpu().numpy()


def _visibility(mask: Mask, baseline: UniformBaseline) -> str:
    """As text, what the queries of a layer may see."""
    most, least = int(baseline.visible.max()), int(baseline.visible.min())
    queries = baseline.visible.shape[1]
    if baseline.ahead:
        return "sees the whole text" if least == queries else f"sees up to {most} tokens around it"
    # A window longer than the text is a window all the same.
    windows = [part.back + 1 for part in mask.conjuncts() if isinstance(part, Window)]
    if most < queries:
        return f"sees {min([*windows, most])} tokens back"
    return f"sees {min(windows)} tokens back" if windows else "sees everything before it"


def _check_number(option: str, given: int | None, count: int) -> None:
    if given is not None and not 0 <= given < count:
        what = option.strip("-")
        raise OptionError(
            option, given, f"0 to {count - 1}, the {what}s of this model", f"{what.capitalize()}s are counted from 0."
        )
