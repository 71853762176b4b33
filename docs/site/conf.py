"""The pages as a site (`make docs`): Sphinx on the repository itself, so that links between pages are as they are everywhere else.

Nothing in the site asks a server when it is read: fonts are the reader's own, search is a file, diagrams are drawn here.
"""

import hashlib
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REST = "Reference"  # where a page stands that no list names
REPORTS = ("results/demo/report.html", "results/published/demo/report.html")  # this machine's own first
REPORT = next((REPOSITORY / place for place in REPORTS if (REPOSITORY / place).is_file()), None)
NAVIGATION = {
    "Start": ("docs/tour", "docs/planning", "docs/report"),
    "Use the parts": ("docs/library", "docs/sampling", "docs/evaluation", "docs/autoencoder", "docs/artifacts"),
    "Scales": ("docs/one-gpu", "docs/rivals", "docs/photographs"),
    "Reference": (
        "config/README",
        "data/README",
        "results/README",
        "docs/training",
        "docs/cluster",
        "docs/caches",
        "docs/downstream",
    ),
    "The project": ("docs/architecture", "CONTRIBUTING", "CHANGELOG"),
}

project, html_title = "reals-repro", "ReaLS, reproduced"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "config/README.md",
    "data/README.md",
    "results/README.md",
    "docs/*.md",
]
exclude_patterns = [".*", "results/*/*", "site"]
myst_heading_anchors = 4
html_theme, html_theme_options = "furo", {"top_of_page_buttons": []}
html_extra_path = ["extra", *([str(REPORT)] if REPORT else [])]
html_copy_source, html_show_sphinx = False, False
html_show_search_summary = False  # it would fetch pages, which a browser refuses of a disk


def prepared(app, name: str, source: list[str]) -> None:
    """A page's text before it is read: mermaid's diagrams as pictures, and on the first page the order of all pages."""
    source[0] = MERMAID.sub(lambda found: f"```{{raw}} html\n{drawn(found[1])}\n```", source[0])
    if name == root_doc:
        listed = {page for pages in NAVIGATION.values() for page in pages}
        rest = sorted({f"docs/{path.stem}" for path in (REPOSITORY / "docs").glob("*.md")} - listed)
        parts = {part: [*pages, *(rest if part == REST else [])] for part, pages in NAVIGATION.items()}
        trees = "".join(
            f"\n```{{toctree}}\n:hidden:\n:caption: {part}\n\n" + "\n".join(pages) + "\n```\n" for part, pages in parts.items()
        )
        source[0] = source[0].replace("\n\n", f"\n\n{demo()}\n\n", 1) + trees


def demo() -> str:
    """Where the demo's report is, or what makes it."""
    if REPORT is None:
        return "The demo's report is not in this copy of the site: `make demo` makes it, and `make docs` takes it in."
    return '<p><a href="report.html">The demo\'s report</a>: every table and figure, each number with what made it.</p>'


def drawn(diagram: str) -> str:
    import mermaidx  # mermaid's own code, run here

    picture = mermaidx.render(diagram).svg().replace("my-svg", f"diagram-{hashlib.sha256(diagram.encode()).hexdigest()[:8]}")
    return f'<figure style="margin: 0; background: white">{picture}</figure>'


def setup(app) -> None:
    app.connect("source-read", prepared)
