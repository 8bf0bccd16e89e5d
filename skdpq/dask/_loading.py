"""`load`: a database that `save` wrote, on the workers of a cluster."""

import os
from os import PathLike

from .._database_quantizer import take_quantizer
from ._cluster import get_client, results, submit
from ._neighbors import DPQNeighbors
from ._storage import SHARED, look_into, open_folder, spread


def load(
    path: str | PathLike[str],
    *,
    mmap: bool = False,
    verify: bool = False,
    n_shards: int | None = None,
    replicas: int = 1,
) -> DPQNeighbors:
    """Return the database of a folder, or of a file of one process, on the workers of a cluster.

    Workers read the path as they see it, so they have to share it. A shard that is lost later is read again.

    Parameters
    ----------
    path : str or path-like
        The folder that `DPQNeighbors.save` wrote; or a file of `skdpq.DPQNeighbors.save`, which is spread.
    mmap : bool, default=False
        Leave codes, ids and labels in the files of a folder, as `skdpq.load` does.
    verify : bool, default=False
        With ``mmap=True``, check all of them, as `skdpq.load` does.
    n_shards : int, default=None
        Into how many shards to spread a file; by default one for each worker. A folder has as many as it has files.
    replicas : int, default=1
        How many workers hold each shard.

    Returns
    -------
    neighbors : DPQNeighbors
        With the parameters and all that was fitted.

    Raises
    ------
    FileFormatError
        If it is no such folder or file, or damaged (a ValueError).
    ValueError
        If there is no cluster or none of so many workers as `replicas`, `mmap` is for a file, or `n_shards` for a
        folder.
    OSError
        If there is none, or it cannot be read.
    RuntimeError
        If the cluster has no workers.

    Examples
    --------
    >>> from dask.distributed import Client
    >>> from sklearn.datasets import load_digits
    >>> import skdpq.dask
    >>> X, _ = load_digits(return_X_y=True)
    >>> skdpq.DPQNeighbors(random_state=0).fit(X).save("digits.skdpq")
    >>> client = Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0")
    >>> neighbors = skdpq.dask.load("digits.skdpq")
    >>> neighbors.kneighbors(X[:2], 3, return_distance=False).shape
    (2, 3)
    >>> client.close()
    """
    path, client = os.path.abspath(os.fspath(path)), get_client()
    manifest, shell, about = results(client, [submit(client, look_into, path, verify or not mmap)])[0]
    neighbors = DPQNeighbors(**{name: getattr(shell, name) for name in SHARED}, quantizer=shell.quantizer)
    if manifest is None:
        if mmap:
            raise ValueError("Expected mmap=False for a file, which is spread in memory, got True. Folders are mapped.")
        neighbors.set_params(n_shards=n_shards, replicas=replicas)
        neighbors._validate_params()
        shards = spread(client, path, shell, about, n_shards, replicas)
    else:
        if n_shards is not None:
            raise ValueError(f"Expected n_shards=None for a folder, which has {len(manifest.files)}, got {n_shards}.")
        neighbors.set_params(**manifest.parameters).set_params(replicas=replicas)
        neighbors._validate_params()
        shards = open_folder(client, path, manifest, shell, replicas, mmap, verify)
    take_quantizer(neighbors, shell.quantizer_)
    neighbors.shards_ = shards
    return neighbors
