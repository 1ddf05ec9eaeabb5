"""`regard look`: the attention of a real model on a real text, in the terminal and as one HTML file.

`source` reads what to look at, `opening` the model, `study` computes every statistic exactly and in linear
memory, `telling` chooses heads and links worth a person's time, `terminal` and `report` show them.
"""
