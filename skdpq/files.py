"""Files of estimators: `load` reads what their method `save` wrote."""

import os
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from ._files import container, estimators, folder
from ._files.container import FileFormatError
from ._typing import Device

if TYPE_CHECKING:
    import torch

__all__ = ["FileFormatError", "load"]


def load(
    path: str | PathLike[str],
    *,
    mmap: bool = False,
    verify: bool = False,
    backbone: "torch.nn.Module | None" = None,
    device: "Device | None" = None,
) -> Any:
    """Return the estimator that `save` wrote to a file.

    A file is read without trust: it holds numbers and text and nothing that runs, and everything is checked before it
    is used.

    Parameters
    ----------
    path : str or path-like
        The file; or the folder that `skdpq.dask.DPQNeighbors.save` wrote, which becomes one database in this process.
    mmap : bool, default=False
        Leave the codes, ids and labels of a `DPQNeighbors` in the file, from where searches read them: opening takes
        milliseconds whatever the number of items, and processes that map the same file share the memory. `add` and
        `remove` work on top of it and never change it. The file must not be changed in place while it is in use; `save`
        does not, as it puts a new file in the place of the old.
    verify : bool, default=False
        With ``mmap=True``, check also the checksums and the order of what stays in the file, which takes reading it.
        Without, a damaged file may give wrong answers, but no search reads beyond its arrays. What is not mapped is
        always checked.
    backbone : Module, default=None
        Where the file has the state of a `backbone`: a module of the same class, which is copied and gets it.
    device : str or torch.device, default=None
        The parameter `device` of the loaded estimators; None for that of the file.

    Returns
    -------
    estimator : DPQTransformer, DPQClassifier, ProductQuantizer or DPQNeighbors
        With the parameters and all that was fitted.

    Raises
    ------
    FileFormatError
        If it is no such file, damaged, or written by a newer version of the format (a ValueError).
    ValueError
        If a backbone is needed and not given, given and not needed, or another one.
    OSError
        If there is no such file, or it cannot be read.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import skdpq
    >>> X, _ = load_digits(return_X_y=True)
    >>> skdpq.DPQNeighbors(random_state=0).fit(X).save("digits.skdpq")
    >>> distances, ids = skdpq.load("digits.skdpq", mmap=True).kneighbors(X[:2], 3)
    >>> ids.shape
    (2, 3)
    """
    try:
        if os.path.isdir(path):
            return folder.restore(path, mapped=mmap, thorough=verify or not mmap, backbone=backbone, device=device)
        with container.Reader(path) as reader:
            if mmap and verify:
                reader.verify()
            return estimators.restore(
                reader, mapped=mmap, thorough=verify or not mmap, backbone=backbone, device=device
            )
    except FileFormatError as error:
        raise FileFormatError(f"{fspath(path)!r} cannot be loaded: {error}") from error
    except RecursionError as error:
        raise FileFormatError(f"{fspath(path)!r} cannot be loaded: it nests too deep.") from error
