"""Which heads and which links of a run report are worth showing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from regard.analysis.head_ranking import rank_heads
from regard.analysis.run_report import HeadReport, RunReport

CANDIDATES = 4000
"""Strongest links of a head among which those to show are chosen."""

PROSE_PLACE = 4
"""Neighbouring tokens of prose that count as one place."""

LEAST_WEIGHT = 0.005
"""Less would be shown as 0.00."""


class Link(NamedTuple):
    """A query that gives weight to a key."""

    query: int
    key: int
    weight: float


class HighlightedHead(NamedTuple):
    """A head, and in one phrase why it is shown."""

    head: HeadReport
    title: str
    why: str
    """Empty where it is the only one."""
    reach: int = 2
    """How far away a link must be to be shown: 2 leaves out the query itself and its neighbours."""


def highlighted_heads(report: RunReport, most: int = 5) -> list[HighlightedHead]:
    """The heads that are most worth showing, each for another reason."""
    if len(report.heads) == 1:
        (only,) = report.heads
        return [HighlightedHead(only, "the head asked for", "")]
    ranking = rank_heads(np.stack([head.scores for head in report.heads]), most)
    return [
        HighlightedHead(report.heads[ranked.head], ranked.criterion.title, ranked.why, ranked.criterion.reach)
        for ranked in ranking
    ]


def highlighted_links(report: RunReport, head: HeadReport, count: int, reach: int = 2) -> list[Link]:
    """A head's strongest links that are worth showing.

    Left out: links less than `reach` tokens away (to the query itself, to its neighbours) and to the start, links
    of white space and of tokens that the model added, those of queries that see few keys, and repetitions
    of a pair of token texts, or of places, already shown.
    """
    tokens, n = report.tokens, len(report.tokens)
    queries = np.broadcast_to(np.arange(n)[:, None], head.keys.shape)
    has_text = np.array([bool(text.strip()) for text in tokens.texts]) & ~tokens.special
    least_visible = min(16, n // 4)
    eligible = (head.keys > 0) & (np.abs(queries - head.keys) >= reach) & (head.visible[:, None] > least_visible)
    eligible &= has_text[queries] & has_text[head.keys]
    weights = np.where(eligible, head.weights, 0)
    strongest = np.argsort(-weights, axis=None, kind="stable")[:CANDIDATES]
    links, pairs, places = list[Link](), set[tuple[str, str]](), set[tuple[int, int]]()
    place_of = np.arange(n) // PROSE_PLACE if report.prose else tokens.lines
    for index in strongest:
        query, rank = divmod(int(index), head.keys.shape[1])
        key, weight = int(head.keys[query, rank]), float(weights[query, rank])
        if weight < LEAST_WEIGHT:
            break
        pair = tokens.texts[query].strip(), tokens.texts[key].strip()
        place = int(place_of[query]), int(place_of[key])
        if pair in pairs or place in places:
            continue
        pairs.add(pair)
        places.add(place)
        links.append(Link(query, key, weight))
        if len(links) == count:
            break
    return links
