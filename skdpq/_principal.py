"""Principal axes dealt out to parts, as in the parametric solution of OPQ (Ge et al., 2013)."""

import numpy as np
from sklearn.utils.extmath import svd_flip

_FLOOR = 1e-10  # smallest variance, relative to the largest, that balances parts


def balanced_axes(scatter, widths):
    """Deal principal axes to parts, the largest variance first, so that products of their variances are about equal.

    Parameters
    ----------
    scatter : ndarray of shape (n_features, n_features), float64
        Scatter or covariance matrix.
    widths : sequence of int
        How many axes each part takes at most.

    Returns
    -------
    axes : list of ndarray of shape (n_features, at most the width)
        The axes of every part, as columns. All are dealt, or as many as there is room for.
    """
    variances, axes = np.linalg.eigh(scatter)
    axes, _ = svd_flip(axes, None)
    logs = np.log(np.maximum(variances / (variances[-1] or 1), _FLOOR)) - np.log(_FLOOR)
    dealt, totals = [[] for _ in widths], np.zeros(len(widths))
    for axis in list(reversed(range(len(logs))))[: sum(widths)]:
        free = [m for m, width in enumerate(widths) if len(dealt[m]) < width]
        m = min(free, key=lambda m: totals[m])
        dealt[m].append(axis)
        totals[m] += logs[axis]
    return [axes[:, np.array(chosen, dtype=int)] for chosen in dealt]
