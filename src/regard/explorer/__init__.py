"""`regard explore`: an HTTP server on this machine alone, and the page that shows what it computes.

`routes` is the table of routes, `handlers` what they call, `state` the open recordings. Recordings are mapped. Fine
tiles of a map are computed on request; coarse ones come from pyramids (`regard.analysis.pyramid`), which are built
once and kept on disk. `write_page` writes one HTML file of a recording, in which a worker computes what the server
would.
"""

from regard.export.offline_page import write_page

__all__ = ["write_page"]
