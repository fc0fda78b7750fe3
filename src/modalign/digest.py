"""Which code a result depends on, as one number.

Snakemake doesn't see edits in imported modules. Rules therefore carry the digest of the modules that they use: it
follows the imports inside this package, and ignores comments, docstrings and layout.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
NO_EFFECT = {"modalign.errors", "modalign.cli", "modalign.__init__"}
"""Modules whose edits change no result."""


@cache
def code_digest(*entries: str) -> str:
    """Sixteen hex digits over the named modules and every modalign module that they import, directly or not.

    An entry is a module (``modalign.runs``) or all modules of a package (``modalign.metrics.*``).
    """
    modules: set[str] = set()
    waiting = [name for entry in entries for name in _expand(entry)]
    while waiting:
        name = waiting.pop()
        if name in modules or name in NO_EFFECT:
            continue
        modules.add(name)
        waiting.extend(_read(name)[1])
    text = "".join(f"{name}={_read(name)[0]};" for name in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expand(entry: str) -> list[str]:
    if not entry.endswith(".*"):
        return [entry]
    folder = PACKAGE.joinpath(*entry.split(".")[1:-1])
    prefix = entry.removesuffix(".*")
    return [prefix, *(f"{prefix}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__")]


def _path(module: str) -> Path | None:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and module != "modalign":
            return path
    return None


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """A module's fingerprint, and the modules of this package that it imports."""
    path = _path(module)
    tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not _is_text(n)]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "modalign":
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "modalign"]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return digest, tuple(name for name in found if _path(name))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
