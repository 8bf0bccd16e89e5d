"""The code of README and of the pages runs, and what they name is there."""

import doctest
import pkgutil
import re
from pathlib import Path

import pytest

import skdpq

ROOT = Path(__file__).parent.parent


def test_the_code_of_the_readme_runs_in_order(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    assert float(capsys.readouterr().out) > 0.9  # mean average precision of the four lines


def code_of(page):
    """Return the blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


# That of exchange.md and serving.md runs in tests of its own, where more is asked of it.
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if code_of(page)]
PAGES = [page for page in PAGES if page.name not in ("exchange.md", "serving.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for number, block in enumerate(code_of(page)):
        if block.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block, namespace, page.name, str(page), number)
            assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
            namespace |= example.globs
        else:
            exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def test_most_pages_have_code_that_runs():
    assert len(PAGES) >= 12
    assert {"guide", "getting_started", "choose", "graphs", "training", "file_format"} <= {page.stem for page in PAGES}


def paper_map():
    """Return every name of code in the tables of docs/paper.md."""
    rows = [line for line in (ROOT / "docs/paper.md").read_text().splitlines() if line.startswith("| ")]
    return sorted({name for row in rows for name in re.findall(r"`([a-z_]+\.[A-Za-z_.]+)`", row)})


@pytest.mark.parametrize("name", paper_map())
def test_the_map_of_the_paper_leads_to_code(name):
    pkgutil.resolve_name(f"skdpq.{name}")


def test_the_map_of_the_paper_is_not_empty():
    assert len(paper_map()) > 15


def names_in(page):
    """Return every module, name in a module, and file that a page names."""
    quoted = set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / page).read_text()))
    return sorted(name for name in quoted if re.fullmatch(r"(_[a-z]|neighbors\.|(tests|benchmarks)/)[\w./]*", name))


PAGES_WITH_NAMES = ["architecture.md", "guide.md", "search.md", "training.md"]


@pytest.mark.parametrize("name", sorted({name for page in PAGES_WITH_NAMES for name in names_in(page)}))
def test_pages_name_what_is_there(name):
    if "/" in name:
        assert (ROOT / name).is_file()
    else:
        pkgutil.resolve_name(f"skdpq.{name}")


def test_the_architecture_names_every_room():
    text = (ROOT / "docs/architecture.md").read_text()
    files = [*(ROOT / "skdpq").glob("*.py"), *(ROOT / "skdpq").glob("_*/*.py")]
    rooms = [path.stem for path in files if path.stem != "__init__"]
    public = {"transformer": "DPQTransformer", "classifier": "DPQClassifier", "product_quantizer": "ProductQuantizer"}
    assert len(rooms) > 25
    assert [room for room in rooms if not re.search(rf"\b{public.get(room, room)}\b", text)] == []


@pytest.mark.parametrize("name", skdpq.__all__)
def test_the_readme_names_all_that_is_public(name):
    assert name in (ROOT / "README.md").read_text()


def guarantees():
    """Return the sentences of docs/guarantees.md that are lists, each with the tests that it names."""
    text = (ROOT / "docs/guarantees.md").read_text()
    items = re.findall(r"^- (.*?)(?=^- |^$)", text, flags=re.DOTALL | re.MULTILINE)
    return [(item[:60], re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", item)) for item in items]


def test_each_guarantee_names_tests_that_are_there():
    assert len(guarantees()) > 20
    for sentence, tests in guarantees():
        assert tests, sentence
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), flags=re.MULTILINE), name
