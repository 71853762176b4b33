"""How our templates are read: a missing name is an error, and a line that holds a statement alone leaves no line behind."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(package: str) -> Environment:
    """Templates in a package's folder; text is escaped in ``*.html.j2`` and left as it is in all others."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
