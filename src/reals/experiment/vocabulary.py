"""What can be printed: the metrics that tables know, by the names they print, and the characters that LaTeX can spell."""

METRIC_NAMES = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "precision": "Precision",
    "recall": "Recall",
    "kid": "KID",
    "rfid": "rFID",
}
"""Of metrics on the features of a network, which is named beside them."""

PLAIN_NAMES = {
    "fid_second": "FID (second judge)",
    "sc_crop": "Crop",
    "sc_flip": "Flip",
    "sc_blur": "Gaussian blur",
    "sc_grayscale": "Grayscale",
    "sc_all": "All",
    "psnr": "PSNR (dB)",
    "ssim_paper": "SSIM",
    "ssim": "SSIM (standard)",
    "lpips": "LPIPS",
    "optimizer": "Optimizer",
    "lr": "Learning rate",
    "schedule": "Schedule",
    "min_lr": "Final learning rate",
    "batch": "Batch size",
    "epochs": "Epochs",
}

METRICS = {
    "evaluation": ("fid", "fid_second", "sfid", "is", "precision", "recall", "kid"),
    "autoencoder": (
        "rfid", "psnr", "ssim_paper", "ssim", "lpips", "sc_crop", "sc_flip", "sc_blur", "sc_grayscale", "sc_all",
    ),
    "settings": ("optimizer", "lr", "schedule", "min_lr", "batch", "epochs"),
}  # fmt: skip
"""What a table of each source can show."""

LOWER = ("fid", "fid_second", "sfid", "rfid", "kid", "lpips")
HIGHER = ("is", "precision", "recall", "sc_crop", "sc_flip", "sc_blur", "sc_grayscale", "sc_all", "psnr", "ssim_paper", "ssim")
"""Metrics of which a lower, or a higher, value is better."""

DECIMALS = {"ssim_paper": 3, "ssim": 3, "lpips": 3}
"""Printed behind the point, as in the paper; two where nothing is said."""
DISTANCES = ("fid", "sfid", "rfid", "kid")
"""Printed with at least three significant digits too: they are small on small images."""

MISSING, LITERATURE, LITERATURE_MARK, MINUS = "…", "—", "†", "−"
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
    "[": "{[}",  # after \\ a bare bracket or star would be read as its argument
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
            return f"no LaTeX spelling for '{c}' (U+{ord(c):04X}); write another character, or add it to TEX in src/reals/experiment/vocabulary.py"
    return None


def tex(text: str) -> str:
    """Text as LaTeX source; ValueError on a character pdflatex would not know."""
    if wrong := unspelled(text):
        raise ValueError(f"'{text}': {wrong}")
    return "".join(TEX.get(c, c) for c in text)
