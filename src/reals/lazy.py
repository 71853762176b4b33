"""A package's public names, each imported when it is first asked for: a command that needs none of them waits for none."""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path


def imports_of(package: str, source: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose file ``source`` imports its public names under ``if TYPE_CHECKING``.

    ``__dir__`` is what notebooks complete from. Type checkers read these imports, and so does this, when the first name is asked
    for: there is one list, and they check it against ``__all__``.
    """

    @cache
    def homes() -> dict[str, tuple[str, str]]:
        nodes = ast.walk(ast.parse(Path(source).read_text()))
        named = [node for node in nodes if isinstance(node, ast.ImportFrom) and str(node.module).startswith(package)]
        return {alias.asname or alias.name: (str(node.module), alias.name) for node in named for alias in node.names}

    def found(name: str) -> object:
        if name.startswith("_") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own = homes()[name]
        return import_module(f"{package}.{own}") if module == package else getattr(import_module(module), own)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes()})

    return found, listed
