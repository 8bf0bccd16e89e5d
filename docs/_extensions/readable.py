"""What a page lacks for its readers once Sphinx has made it; Sphinx calls it for each page.

Links that quote a file's name, as is right where the Markdown is read, get the title of the page. What axe-core
objects to in the markup of docutils and sphinx-gallery is mended.
"""

import posixpath
import re

from docutils import nodes

MENDED = [
    # A corner of a table without words is no heading.
    (re.compile(r'<th class="head[^"]*">(?:<p></p>)?</th>'), "<td></td>"),
    # Roles that ARIA does not allow here.
    (re.compile(r' role="list"(?= class="citation-list")'), ""),
    (re.compile(r' role="doc-(?:biblioentry|backlink)"'), ""),
    # The links of thumbnails have their words hidden, and their titles beside them.
    (
        re.compile(r'<a class="reference internal"( href="[^"]*"><span class="doc">)([^<"]*)</span>'),
        r'<a class="reference internal" aria-label="\2"\1\2</span>',
    ),
]


def name_links_by_titles(app, doctree, docname):
    """Put titles into links whose words are the name of a file."""
    for reference in doctree.findall(nodes.reference):
        if reference.get("internal") and re.fullmatch(r"[\w./-]+\.md", reference.astext()):
            target = reference["refuri"].partition("#")[0].removesuffix(".html")
            page = posixpath.normpath(posixpath.join(posixpath.dirname(docname), target))
            text = next(reference.findall(nodes.Text))
            text.parent.replace(text, nodes.Text(app.env.titles[page].astext()))


def mend(app, pagename, templatename, context, doctree):
    """Mend the body of a page."""
    for pattern, replacement in MENDED if "body" in context else ():
        context["body"] = pattern.sub(replacement, context["body"])


def setup(app):
    """Register both."""
    app.connect("doctree-resolved", name_links_by_titles)
    app.connect("html-page-context", mend)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
