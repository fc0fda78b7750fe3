"""Which code a result depends on, as one number.

Snakemake doesn't see edits in imported modules. Rules therefore carry the digest of the modules that they use: it
follows the imports inside this package, and ignores comments, docstrings and layout. The tables of data that lie in the
same folder as one of these modules (printed results, the registry of archives) count as part of it, to the last byte:
which function reads which file can't be told from the imports. Another version of Python, which compiles to other code,
has another digest.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType

PACKAGE = Path(__file__).parent
NO_EFFECT = {"modalign.errors", "modalign.cli", "modalign.__init__"}
"""Modules whose edits change no result."""
DATA = ("*.csv", "*.tsv")
"""Files of data beside modules."""


@cache
def code_digest(*entries: str) -> str:
    """Sixteen hex digits over the named modules, every modalign module that they import, directly or not, and the data
    beside all these.

    An entry is a module (``modalign.runs``) or all modules of a package (``modalign.metrics.*``).
    """
    modules = reached(*entries)
    text = "".join(f"{name}={_read(name)[0]};" for name in sorted(modules))
    for path in _data_beside(modules):
        text += f"{path.relative_to(PACKAGE).as_posix()}={hashlib.sha256(path.read_bytes()).hexdigest()};"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reached(*entries: str) -> set[str]:
    """The named modules, as for :func:`code_digest`, and every modalign module that they import, directly or not."""
    modules: set[str] = set()
    waiting = [name for entry in entries for name in _expand(entry)]
    while waiting:
        name = waiting.pop()
        if name in modules or name in NO_EFFECT:
            continue
        modules.add(name)
        waiting.extend(_read(name)[1])
    return modules


def _data_beside(modules: Iterable[str]) -> list[Path]:
    folders = {path.parent for name in modules if (path := _path(name))}
    return sorted(path for folder in folders for pattern in DATA for path in folder.glob(pattern))


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
    # Compiled, which takes half the time of writing down the syntax tree: every run waits for this.
    # Optimisation level 2 leaves out docstrings (and assertions).
    text = path.read_text(encoding="utf-8") if path else ""
    codes = list(_nested(compile(text, module, "exec", dont_inherit=True, optimize=2)))
    digest = hashlib.sha256(repr([_content(code) for code in codes]).encode()).hexdigest()
    return digest, tuple(name for name in dict.fromkeys(_imports(codes)) if _path(name))


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code and that of all functions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _content(code: CodeType) -> tuple[object, ...]:
    """All of it but where it stands in the file."""
    constants = tuple(map(_constant, code.co_consts))
    variables = (code.co_varnames, code.co_cellvars, code.co_freevars)
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return code.co_qualname, code.co_code, code.co_exceptiontable, code.co_names, constants, variables, arguments


def _constant(value: object) -> object:
    """With a representation that is the same in every process."""
    if isinstance(value, CodeType):
        return value.co_qualname
    if isinstance(value, tuple):
        return tuple(map(_constant, value))
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value


def _imports(codes: Iterable[CodeType]) -> Iterator[str]:
    """Names that may be modules of this package: what is imported, and, from a package, what is taken out of it."""
    for code in codes:
        sources = [name for name in code.co_names if name.split(".")[0] == "modalign"]
        yield from sources
        taken = [constant for constant in code.co_consts if isinstance(constant, tuple)] if sources else []
        for source in sources:
            if PACKAGE.joinpath(*source.split(".")[1:]).is_dir():
                yield from (f"{source}.{name}" for names in taken for name in names if isinstance(name, str))
