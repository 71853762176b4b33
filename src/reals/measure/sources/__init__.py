"""The kinds of files that images to be measured come in."""
