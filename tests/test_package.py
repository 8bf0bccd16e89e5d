"""What importing costs, and what each half imports."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

import skdpq


def run(code):
    """Run code in a fresh interpreter and return what it prints, as words."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


LOADED = "import sys; print(*(name for name in ('torch', 'sklearn', 'numba', 'numpy') if name in sys.modules))"


def test_importing_the_package_imports_nothing_heavy():
    assert run(f"import skdpq; {LOADED}") == []


def test_every_public_name_is_found_and_documented():
    assert set(skdpq.__all__) == {"DPQClassifier", "DPQNeighbors", "DPQTransformer", "ProductQuantizer", "metrics"}
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


@pytest.mark.parametrize(
    "module", ["codes", "tables", "kernels", "index", "ranking", "metrics", "product_quantizer", "neighbors", "_device"]
)
def test_no_room_of_the_searching_half_imports_torch(module):
    assert "torch" not in run(f"import skdpq.{module}; {LOADED}")
