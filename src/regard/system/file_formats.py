"""The version of each file format that regard writes: it is raised when a file of the format changes its meaning."""

from __future__ import annotations

RECORDING = 1
"""Recordings (`recording/container.py`), safetensors with a header of ours."""

PYRAMID = 2
"""Cached pyramids and statistics of heads (`analysis/pyramid.py`); one of another version is rebuilt."""

OFFLINE_PAGE = 1
"""Offline pages (`export/offline_page.py`), which carry the code that reads them."""
