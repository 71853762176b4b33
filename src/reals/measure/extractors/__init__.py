"""The feature extractors that there are, one network a module."""
