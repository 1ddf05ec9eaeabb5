"""`regard bench`: speed and memory here, beside PyTorch's own attention and the plain formula.

All arms of a case run in one process and take turns, so that a slow moment of the machine hits them alike.
Times are medians, with the quartiles as spread; a ratio is the median of the ratios of neighbours in time.
Extra memory is the growth of the peak resident set of a fresh process that runs the case once.

An arm or a case more is a row more in `ARMS` or `CASES`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from regard.attend import attention, observe
from regard.doctor import processor
from regard.errors import OptionError
from regard.lab.tables import show_rich, show_markdown
from regard.masks import Causal
from regard.observers import Entropy, MeanDistance, Received, TopK

STATISTICS = (Entropy(), TopK(8), MeanDistance(), Received())
