"""Looks before the first job: a cheap one when the workflow starts, a thorough one for `reals check`.

A check returns what it found as one line, or raises ConfigError that says what is wrong and what to do.
"""
