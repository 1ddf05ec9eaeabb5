"""`regard explore`: a server on this machine alone, and the page that shows what it computes.

A recording is opened by mapping. Fine tiles are computed when they are asked for, by the library's kernels;
coarse ones come from pyramids that are built once and kept on disk (`pyramid`, `building`). `write_page`
makes one HTML file of a recording, in which a worker computes what the server would.
"""

from regard.export.offline_page import write_page

__all__ = ["write_page"]
