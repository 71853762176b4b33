"""What a user runs first on a GPU node: does every part of the code do here what it does elsewhere?

A check returns what it found as one line; raises `Fault` with what is wrong, or `Skipped` with why it says nothing here.
"""
