"""The site as it is built: no warning, no link to what is not there, and a page for every public name.

`pytest docs/test_site.py` builds it, as the command in CONTRIBUTING does, and needs `pip install -e ".[docs]"`.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import skdpq
from skdpq import metrics

DOCS = Path(__file__).parent


class Page(HTMLParser):
    """What a page has: ids, links, pictures, and headings."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded, self.images, self.headings = set(), [], [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        """Note a tag."""
        attrs = dict(attrs)
        self.ids |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag in ("script", "img"):
            self.loaded.append(attrs.get("src", ""))
        if tag == "link" and "stylesheet" in attrs.get("rel", ""):
            self.loaded.append(attrs["href"])
        if tag == "img":
            self.images.append((attrs["src"], attrs.get("alt")))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built anew with every picture of the gallery."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page, by its path."""
    return {path.resolve(): Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    assert len(pages) > 50
    n_links, broken = 0, []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//") or not link:
                continue
            n_links += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            if not (target.is_file() and target.is_relative_to(site.resolve()) and anchored):
                broken.append((path.name, link))
    print(f"{len(pages)} pages, {n_links} links")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        assert [source for source in page.loaded if urlsplit(source).scheme in ("http", "https")] == [], path


def test_every_public_name_has_a_page(site):
    modules = {"metrics"}
    names = [f"skdpq.{name}" for name in skdpq.__all__ if name not in modules]
    names += [f"skdpq.metrics.{name}" for name in metrics.__all__]
    names += ["skdpq.compile.compile_searches", "skdpq.dask.DPQNeighbors", "skdpq.dask.load"]
    for name in names:
        page = (site / "api" / f"{name}.html").read_text()
        assert f'id="{name}"' in page


def test_every_example_has_a_picture(site):
    examples = sorted(DOCS.parent.joinpath("examples").glob("plot_*.py"))
    assert len(examples) >= 10
    for example in examples:
        assert f"sphx_glr_{example.stem}_001" in (site / "gallery" / f"{example.stem}.html").read_text(), example


def test_every_picture_has_words_for_those_who_do_not_see_it(pages):
    for path, page in pages.items():
        assert all(alt is not None for _, alt in page.images), path
        # A thumbnail says no more than the link that it is in.
        assert [source for source, alt in page.images if not alt and "_thumb" not in source] == [], path


def test_headings_begin_at_one_and_skip_no_level(pages):
    for path, page in pages.items():
        assert page.headings.count(1) == 1, path
        steps = zip(page.headings, page.headings[1:], strict=False)
        assert all(following <= heading + 1 for heading, following in steps), (path, page.headings)


def test_equations_are_mathml(site):
    guide = (site / "guide.html").read_text()
    assert guide.count("<math ") > 20
    assert "\\mathrm" not in guide
