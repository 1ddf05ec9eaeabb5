"""The explorer and the lesson in a notebook, live and without a port: ``import regard.notebook``.

    w = regard.notebook.explore(run)          # the map of a recording, in the cell below
    w.go(layer=3, head=2, query=412, key=17)  # Python points
    w.cell                                    # and asks what a person points at

The page is the one of `regard explore`; what it asks travels as the widget's messages and is answered in this
process, by threads of its own, so that the notebook goes on meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from regard.errors import OptionError
from regard.recording import Recording

try:
    from regard.notebook.widget import Cell, ExplorerWidget
except ImportError as error:
    raise OptionError(
        "regard.notebook",
        f"no {error.name}",
        "an installation with the extra notebook",
        'Install it: pip install "regard[notebook]"',
    ) from error

__all__ = ["Cell", "ExplorerWidget", "explore", "lesson"]


def explore(
    recording: Recording | str | Path, *others: Recording | str | Path, height: int = 700, place: str | None = None
) -> ExplorerWidget:
    """The explorer of a recording as a widget; others can be compared with it.

    Args:
        recording, others: What `regard.record` gave, or files that it wrote.
        height: Of the widget, in pixels.
        place: Where to begin, as the hash in the address of `regard explore` says it; by default the atlas.

    Returns:
        The widget. Its `layer`, `head` and `cell` say where a person is, `go` goes elsewhere, and `close`
        ends its threads.

    Raises:
        OptionError: a file that is no recording, a height of no pixels, or a page that is not built.
    """
    runs = [one if isinstance(one, Recording) else Recording.open(one) for one in (recording, *others)]
    return ExplorerWidget(runs, height=height, place=place)


def lesson(*, height: int = 700) -> ExplorerWidget:
    """The lesson on three words as a widget: every number can be changed, and says where it came from."""
    return ExplorerWidget([], height=height, place="lesson")
