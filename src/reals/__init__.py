"""ReaLS, reproduced: from images to every table and figure of the paper, as one workflow."""

__version__ = "0.2.0"
