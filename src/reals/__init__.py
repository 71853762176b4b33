"""ReaLS, reproduced: from images to every table and figure of the paper, as one workflow."""

__version__ = "0.1.0"
