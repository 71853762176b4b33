"""Commands for people, one module each; they know checkpoints, folders and files, not the sheets.

A module has ``add(commands)``: it adds its parser and sets ``run`` (a function of the parsed options) as its default.
Heavy imports stay inside that function, so that ``reals --help`` is quick.
"""
