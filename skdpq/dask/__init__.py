"""Deep Product Quantization on a dask cluster: encoding, searching and learning beyond one machine.

Needs ``pip install skdpq[dask]``. The classes are those of one process, over arrays and workers of dask.
"""

try:
    from ._loading import load
    from ._neighbors import DPQNeighbors
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
        raise
    raise ImportError(
        f"skdpq.dask needs dask and distributed: expected them installed, as by pip install skdpq[dask], got {error}."
    ) from error

__all__ = ["DPQNeighbors", "load"]
