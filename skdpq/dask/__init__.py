"""Deep Product Quantization on a dask cluster: encoding, searching and learning beyond one machine.

Needs ``pip install skdpq[dask]``. The classes are those of one process, over arrays and workers of dask.
"""

try:
    import dask.array
    import distributed
except ImportError as error:
    raise ImportError(
        f"skdpq.dask needs dask and distributed: expected them installed, as by pip install skdpq[dask], got {error}."
    ) from error

from ._loading import load
from ._neighbors import DPQNeighbors

__all__ = ["DPQNeighbors", "load"]
