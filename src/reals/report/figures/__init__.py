"""The figures: what each shows (catalogue), and their drawing from arrays by kind, as PDF and PNG."""
