"""`regard attribute`: which documents an answer attended to, in the terminal and as one HTML file.

`main` goes from the options to what is printed and written, `told` makes the figures that both show,
`terminal` and `report` show them. What is found is `regard.attribution`.
"""
