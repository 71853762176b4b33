"""LaTeX spelling of what tables print; a character that pdflatex would not know is refused when it is read."""

MISSING, LITERATURE, LITERATURE_MARK, MINUS = "…", "—", "†", "−"
"""What a table prints for a value that is not measured yet, for one only the literature has, the mark of such rows, and a minus."""
TEX = {
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",  # after \\, LaTeX would read a bare bracket or star as that command's argument
    "]": "{]}",
    "*": "{*}",
    '"': "''",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    MINUS: "$-$",
    MISSING: r"\dots{}",
    LITERATURE: "---",
    "–": "--",
    LITERATURE_MARK: r"\dag{}",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "²": r"\textsuperscript{2}",
    "’": "'",
}


def unspelled(text: str) -> str | None:
    """What is wrong with the first character that pdflatex would not know; None where it knows all. Latin letters stay UTF-8."""
    for c in text:
        if c not in TEX and not c.isascii() and not (c.isalpha() and c < "\u0180"):
            return f"no LaTeX spelling for '{c}' (U+{ord(c):04X}); write another character, or add it to TEX in src/reals/experiment/spelling.py"
    return None


def tex(text: str) -> str:
    """Text as LaTeX source; ValueError on a character pdflatex would not know."""
    if wrong := unspelled(text):
        raise ValueError(f"'{text}': {wrong}")
    return "".join(TEX.get(c, c) for c in text)
