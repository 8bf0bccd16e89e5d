"""The notebook representation: what it says of each parameter, and where it leads."""

import inspect
import re
import subprocess
import sys

import pytest
from sklearn.utils._repr_html.common import get_docstring

import skdpq

ESTIMATORS = [getattr(skdpq, name) for name in skdpq.__all__ if hasattr(getattr(skdpq, name), "get_params")]
METADATA = "Metadata-Version: 2.1\nName: skdpq\nVersion: {version}\nProject-URL: Documentation, https://docs.example/\n"
PRINT_LINKS = """
import skdpq
print(*(getattr(skdpq, name)()._get_doc_link() for name in {names}), sep="\\n")
"""


def links(*path):
    """Return the links of all estimators, with some folders in front of the others that Python looks into."""
    names = [cls.__name__ for cls in ESTIMATORS]
    code = f"import sys; sys.path[:0] = {list(map(str, path))}\n" + PRINT_LINKS.format(names=names)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def test_links_lead_to_the_pages_of_the_site_whose_address_the_metadata_have(tmp_path):
    folder = tmp_path / f"skdpq-{skdpq.__version__}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA.format(version=skdpq.__version__))
    assert links(tmp_path) == [f"https://docs.example/api/skdpq.{cls.__name__}.html" for cls in ESTIMATORS]


def test_without_an_address_there_are_no_links(tmp_path):
    folder = tmp_path / f"skdpq-{skdpq.__version__}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: skdpq\nVersion: {skdpq.__version__}\n")
    assert links(tmp_path) == [""] * len(ESTIMATORS)


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_every_parameter_has_a_tooltip(cls):
    names = list(inspect.signature(cls).parameters)
    assert len(names) > 5
    assert [name for name in names if len(get_docstring(cls, "Parameters", name) or "") < 40] == []


def parameters(cls):
    """Return what a docstring says of each parameter."""
    text = re.search(r"Parameters\n-+\n(.*?)\nAttributes\n", inspect.getdoc(cls), flags=re.DOTALL)[1]
    blocks = re.split(r"(?m)^(?=\w)", text)
    return {block.split()[0]: block.strip() for block in blocks if block.strip()}


def test_the_networks_say_the_same_of_the_parameters_that_they_share():
    transformer, classifier = parameters(skdpq.DPQTransformer), parameters(skdpq.DPQClassifier)
    assert set(classifier) - set(transformer) == {"representation"}
    assert set(transformer) <= set(classifier)
    assert [name for name, text in transformer.items() if text != classifier[name]] == ["supervision"]
