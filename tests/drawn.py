"""What can be read back from a drawn figure."""

import re
import zlib

from matplotlib.image import imread

DPI = 250


def width_in_inches(path):
    return imread(path).shape[1] / DPI


def text_of(pdf) -> str:
    """The words of a figure, a line each: its fonts have two bytes a character and kerning between them."""
    lines = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf.read_bytes(), re.DOTALL):
        try:
            commands = zlib.decompress(stream)
        except zlib.error:
            continue
        for array in re.findall(rb"\[([^\]]*)\]\s*TJ|(\([^)]*\))\s*Tj", commands):
            pieces = re.findall(rb"\(((?:\\.|[^\\()])*)\)", b"".join(array))
            lines.append(re.sub(rb"\\(.)", rb"\1", b"".join(pieces)).replace(b"\0", b"").decode("latin-1"))
    return "\n".join(lines)
