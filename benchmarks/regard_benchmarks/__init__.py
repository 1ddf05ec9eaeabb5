"""Measurements: what regard costs beside other ways to the same result, on this machine. `regard bench` runs them."""
