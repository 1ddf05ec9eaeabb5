"""`regard look`: the attention of a real model on a real text, in the terminal, and as the explorer's page.

`opening` opens the model, `study` computes every statistic exactly and in linear memory, `telling` chooses
heads and links worth a person's time, `terminal` shows them; with `--out` the run is recorded, and
`regard.explorer` makes one HTML file of it.
"""
