"""A renderer of equations as MathML, which browsers typeset without a script, a font or a network.

Screen readers read it, too. Sphinx calls it for each equation of a page where ``html_math_renderer = "mathml"``, and
docutils converts the TeX.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def _inline(translator, node):
    translator.body.append(f'<span class="math">{tex2mathml(node.astext())}</span>')
    raise nodes.SkipNode


def _block(translator, node):
    # With a tabindex the keyboard can scroll what is wider than the screen.
    mathml = re.sub(r"\n\s*", " ", tex2mathml(node.astext(), as_block=True))
    number = f'<span class="eqno">({node["number"]})</span>' if node["number"] else ""
    name = f' id="{node["ids"][0]}"' if node["ids"] else ""
    translator.body.append(f'<div class="math" tabindex="0"{name}>{mathml}{number}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
