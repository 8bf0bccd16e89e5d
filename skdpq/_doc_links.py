"""Links from the notebook representation of an estimator to its page of the site.

scikit-learn asks for the address. It stands in the metadata of the distribution, as the project's URL "Documentation",
so that it is said in one place; while there is none, there are no links.
"""

from functools import cache
from importlib import metadata


@cache
def site_address():
    """Return the address of the site without a slash at its end, an empty string if the metadata have none.

    Returns
    -------
    address : str
        Such as "https://docs.example".
    """
    try:
        urls = metadata.metadata("skdpq").get_all("Project-URL", [])
    except metadata.PackageNotFoundError:  # run from a source tree
        urls = []
    labelled = dict(url.split(", ", 1) for url in urls)
    return labelled.get("Documentation", "").rstrip("/")


class DocLinksMixin:
    """What every estimator has whose representation links to its page."""

    _doc_link_module = "skdpq"

    @property
    def _doc_link_template(self):
        return f"{site_address()}/api/skdpq.{{estimator_name}}.html" if site_address() else ""
