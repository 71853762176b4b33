"""A table: built from its sheet and the results as rows of cells, and written as Markdown, CSV and LaTeX."""
