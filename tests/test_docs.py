"""The README's code runs, and the paper's map leads to things that are there."""

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


def paper_map():
    """Return every name of code in the tables of docs/paper.md."""
    rows = [line for line in (ROOT / "docs/paper.md").read_text().splitlines() if line.startswith("| ")]
    return sorted({name for row in rows for name in re.findall(r"`([a-z_]+\.[A-Za-z_.]+)`", row)})


@pytest.mark.parametrize("name", paper_map())
def test_the_map_of_the_paper_leads_to_code(name):
    pkgutil.resolve_name(f"skdpq.{name}")


def test_the_map_of_the_paper_is_not_empty():
    assert len(paper_map()) > 15


@pytest.mark.parametrize("name", skdpq.__all__)
def test_the_readme_names_all_that_is_public(name):
    assert name in (ROOT / "README.md").read_text()
