"""A run report of a text, as `regard look` makes it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from regard.analysis.head_ranking import CRITERIA
from regard.analysis.run_report import HeadReport, RunReport
from regard.cli.look import look
from regard.integrations.opening import TextModel
from regard.system.text_source import TextSource


def report_of(opened: TextModel, source: TextSource, **options: Any) -> RunReport:
    """What `regard look` prints."""
    with tempfile.TemporaryDirectory() as folder:
        return look(opened, source, Path(folder), **options)[1]


def scored(head: HeadReport, title: str, score: float) -> ndarray:
    """A head's scores with another one for a criterion."""
    return np.where([criterion.title == title for criterion in CRITERIA], score, head.scores)
