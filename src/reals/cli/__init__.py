"""The command line: what Snakemake calls and what people call; each command a module."""
