"""What importing costs, and what each half imports."""

import ast
import inspect
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import skdpq

PACKAGE = Path(skdpq.__file__).parent


def run(code):
    """Run code in a fresh interpreter and return what it prints, as words."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


LOADED = "import sys; print(*(name for name in ('torch', 'sklearn', 'numba', 'numpy') if name in sys.modules))"


def test_importing_the_package_imports_nothing_heavy():
    assert run(f"import skdpq; {LOADED}") == []


def test_every_public_name_is_found_and_documented():
    estimators = {"DPQClassifier", "DPQNeighbors", "DPQTransformer", "ProductQuantizer"}
    displays = {"CodebookUsageDisplay", "LossCurveDisplay", "RetrievalCurveDisplay", "RetrievalDisplay"}
    functions = {"FileFormatError", "from_faiss", "load", "metrics", "to_faiss"}
    assert set(skdpq.__all__) == estimators | displays | functions
    assert set(skdpq.__all__) <= set(dir(skdpq))
    for name in skdpq.__all__:
        assert getattr(skdpq, name).__doc__.strip()
    with pytest.raises(AttributeError, match="DPQRegressor"):
        _ = skdpq.DPQRegressor


def test_the_version_is_the_distributions():
    assert metadata.version("skdpq") == skdpq.__version__


SEARCH = """
import sys
import numpy as np
from sklearn.datasets import load_digits
from skdpq import DPQNeighbors, ProductQuantizer
from skdpq.metrics import retrieval_scorer
X, y = load_digits(return_X_y=True)
neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=4, K=16, random_state=0)).fit(X, y)
neighbors.kneighbors(X[:5])
neighbors.radius_neighbors(X[:5], 20.0)
neighbors.kneighbors_codes(neighbors.codes_[:5])
neighbors.add(X[:5], y=y[:5]).remove([0]).transform(X[:5])
assert retrieval_scorer()(neighbors, X[:50], y[:50]) > 0.4
assert neighbors.quantizer_.unpack_codes(neighbors.quantizer_.pack_codes(neighbors.codes_)).shape == (1801, 4)
print("torch" in sys.modules)
"""


def test_the_searching_half_never_imports_torch():
    assert run(SEARCH) == ["False"]


def imported(path):
    """Return the full names of the modules that a file imports, anywhere in it."""
    package = ("skdpq", *path.relative_to(PACKAGE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms(wing):
    return sorted((PACKAGE / wing).rglob("*.py"))


def imports_of(path, module):
    return {name for name in imported(path) if name == module or name.startswith(f"{module}.")}


@pytest.mark.parametrize(("wing", "other"), [("_search", "_learning"), ("_learning", "_search")])
def test_the_wings_do_not_import_each_other(wing, other):
    assert rooms(wing)
    for path in rooms(wing):
        assert not imports_of(path, f"skdpq.{other}"), path


def test_what_the_wings_share_imports_neither():
    for name in (
        "_arrays",
        "_atomic",
        "_blockwise",
        "_classes",
        "_codes",
        "_device",
        "_doc_links",
        "_frame",
        "_labels",
        "_progress",
        "_quantizer",
        "_threads",
        "_typing",
        "_versions",
    ):
        path = PACKAGE / f"{name}.py"
        assert not any(imports_of(path, f"skdpq.{wing}") for wing in ("_search", "_learning")), path


def test_the_searching_wing_imports_torch_in_one_room():
    assert [path.name for path in rooms("_search") if imports_of(path, "torch")] == ["scan_torch.py"]


def test_imports_are_seen_wherever_and_however_they_stand(tmp_path):
    path = PACKAGE / "_search" / "room.py"
    code = "def f():\n    from ..  import _learning\n    from .tables import decode\n    import torch.nn"
    names = imported(type("File", (), {"relative_to": path.relative_to, "read_text": lambda self: code})())
    assert {"skdpq._learning", "skdpq._search.tables", "torch.nn"} <= names


@pytest.mark.parametrize(
    "module", ["displays", "metrics", "product_quantizer", "neighbors", "exchange", "_device", "_search.index"]
)
def test_searching_starts_without_torch(module):
    assert "torch" not in run(f"import skdpq.{module}; {LOADED}")


def documented_defaults(cls):
    """Return the defaults that a docstring gives for its parameters."""
    parameters = inspect.getdoc(cls).split("Attributes\n")[0]
    found = re.findall(r"^(\w.*) : .*default=(.+)$", parameters, flags=re.MULTILINE)
    return {name: ast.literal_eval(value) for names, value in found for name in names.split(", ")}


@pytest.mark.parametrize("name", sorted(name for name in skdpq.__all__ if hasattr(getattr(skdpq, name), "get_params")))
def test_documented_defaults_are_those_of_the_signature(name):
    cls = getattr(skdpq, name)
    assert documented_defaults(cls) == {p.name: p.default for p in inspect.signature(cls).parameters.values()}


WITHOUT_DASK = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None
import numpy as np
import skdpq
X = np.random.default_rng(0).normal(size=(50, 4))
neighbors = skdpq.DPQNeighbors(quantizer=skdpq.ProductQuantizer(M=2, K=4)).fit(X)
neighbors.kneighbors(X[:2])
neighbors.quantizer_.transform(X)
try:
    import skdpq.dask
except ImportError as error:
    print("skdpq[dask]" in str(error))
"""


def test_without_dask_all_else_works_and_its_own_module_says_what_it_needs():
    assert run(WITHOUT_DASK) == ["True"]


def test_nothing_but_its_own_module_imports_dask():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "dask":
            assert not imports_of(path, "dask") | imports_of(path, "distributed"), path
