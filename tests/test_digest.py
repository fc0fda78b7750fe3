"""The code digest follows imports and ignores what changes no result."""

import pytest

from modalign import digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    for folder in ("methods", "data"):
        (tmp_path / folder).mkdir()
    files = {
        "methods/__init__.py": "",
        "methods/mine.py": "from modalign.tools import double\ndef align():\n    from modalign.late import x\n",
        "tools.py": 'def double(v):\n    """Twice."""\n    return 2 * v\n',
        "late.py": "x = 1\n",
        "other.py": "y = 1\n",
        "methods/printed.csv": "1,2\n",
        "data/__init__.py": "",
        "data/list.tsv": "a\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(digest, "PACKAGE", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget():
    for cached in (digest.code_digest, digest._read):
        cached.cache_clear()


def _digest():
    _forget()
    return digest.code_digest("modalign.methods.mine")


@pytest.mark.parametrize("name", ["methods/mine.py", "tools.py", "late.py"])
def test_an_edit_of_any_used_module_counts(package, name):
    before = _digest()
    path = package / name
    path.write_text(path.read_text() + "z = 3\n")
    assert _digest() != before


def test_comments_docstrings_and_unused_modules_do_not_count(package):
    before = _digest()
    (package / "tools.py").write_text('# why\ndef double(v):\n    """Two times."""\n\n    return (2 * v)\n')
    (package / "other.py").write_text("y = 2\n")
    assert _digest() == before


def test_data_beside_used_modules_count(package):
    before = _digest()
    (package / "data" / "list.tsv").write_text("b\n")
    assert _digest() == before
    (package / "methods" / "printed.csv").write_text("1,3\n")
    assert _digest() != before
    before = _digest()
    (package / "tools.py").write_text("from modalign import data\n" + (package / "tools.py").read_text())
    assert _digest() != before
    before = _digest()
    (package / "data" / "list.tsv").write_text("c\n")
    assert _digest() != before


@pytest.mark.parametrize(
    ("entry", "name"),
    [("modalign.papers.rbg", "papers/paper_results.csv"), ("modalign.datasets.*", "datasets/registry.tsv")],
)
def test_what_the_papers_print_and_where_archives_lie_are_data_of_tables_and_indices(entry, name):
    assert digest.PACKAGE / name in digest._data_beside(digest.reached(entry))


def test_measuring_follows_its_job_and_no_edit_of_tables_or_report():
    modules = digest.reached("modalign.metrics.*")
    assert {"modalign.metrics.job", "modalign.metrics.measure", "modalign.cases"} <= modules
    assert not [name for name in modules if name.split(".")[1] in ("evaluate", "report", "papers")]


def test_a_package_entry_takes_all_its_modules(package):
    before = digest.code_digest("modalign.methods.*")
    (package / "methods" / "new.py").write_text("a = 1\n")
    _forget()
    assert digest.code_digest("modalign.methods.*") != before
