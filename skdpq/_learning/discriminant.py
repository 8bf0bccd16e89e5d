"""Discriminant analysis for the base network: Gaussian classes whose means are random, too.

`base_network` mixes its logits in. Where a class has few samples, most of how their mean differs from the mean of all
is noise, in some directions all of it. Here the means have a Gaussian distribution of their own, as in probabilistic
linear discriminant analysis (Ioffe, 2006), so that each is shrunk by as much as its samples leave it uncertain.
"""

import numpy as np
from scipy.linalg import cholesky, solve_triangular, svd
from scipy.sparse import csr_array

_LEAST_VARIANCE = 1e-6  # of standardized features within classes
_LEAST_COUNT = 1e-3  # samples of a class that has none
_MAX_FEATURES = 2**12  # whose covariance takes 128 MB, and seconds to decompose


def discriminant_analysis(blocks, n_classes):
    """Compute the logits of Gaussian classes that share a covariance, and whose means are Gaussian.

    The covariance within classes is shrunk to a multiple of the identity (`shrink`). In directions in which it is the
    identity, and in which the means are uncorrelated, the means have a variance b beyond that of the mean of n samples,
    1 / n. A mean is then expected at b / (b + 1 / n) of what is observed, and a new sample has a variance of 1 + b / (n
    b + 1) around it; for a linear rule, the latter is that of the class which a sample has on average. For many samples
    a class this is linear discriminant analysis. A class without samples is as improbable as one with a thousandth of a
    sample at the mean of all.

    Parameters
    ----------
    blocks : iterable of tuple of ndarray of shape (n, d), (n,) and (n,)
        Samples, class indices and weights, a block at a time.
    n_classes : int
        Number of classes C.

    Returns
    -------
    weight, bias : ndarray of shape (C, d), (C,), float32
        The logits of x are weight @ x + bias; zero for more than 4,096 dimensions.
    """
    n, counts, sums, scatter = 0, 0.0, 0.0, 0.0
    for X, y, weight in blocks:
        d = X.shape[1]
        if d > _MAX_FEATURES:
            return np.zeros((n_classes, d), np.float32), np.zeros(n_classes, np.float32)
        membership = csr_array((weight, (y, np.arange(len(y)))), shape=(n_classes, len(y)))
        n += np.count_nonzero(weight)
        counts = counts + membership.sum(axis=1)
        sums = sums + membership @ X
        scatter = scatter + (X.T * weight) @ X
    present = np.count_nonzero(counts)
    unit = counts.sum() / n  # weight of a sample
    counts, sums, scatter = np.maximum(counts / unit, _LEAST_COUNT), sums / unit, scatter / unit
    means, mean = sums / counts[:, None], sums.sum(axis=0) / n

    # Directions: the covariance within classes is L L^T, and that of L^-1 means is diagonal in the columns of U.
    n_free = max(n - present, 1)
    L = cholesky(shrink((scatter - (means.T * counts) @ means) / n_free, n_free), lower=True)
    deviations = solve_triangular(L, (means - mean).T, lower=True)
    U, lengths, _ = svd(deviations * np.sqrt(counts), full_matrices=False)
    typical = np.square(counts).sum() / n
    between = np.maximum(np.square(lengths) - (present - 1), 0)[:, None] / max(n - typical, _LEAST_COUNT)
    shrunk = U.T @ deviations * (between * counts / (between * counts + 1))
    scaled = shrunk / (1 + between / (between * typical + 1))
    weight = solve_triangular(L, U @ scaled, lower=True, trans="T").T
    bias = np.log(counts / counts.sum()) - 0.5 * (scaled * shrunk).sum(axis=0) - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32)


def shrink(covariance, n):
    """Shrink a covariance of n samples to a multiple of the identity, by Oracle Approximating Shrinkage.

    As `sklearn.covariance.oas` does, which takes samples (Chen et al., 2010). The multiple is not zero.
    """
    d = len(covariance)
    mean, mean_square = np.trace(covariance) / d, np.square(covariance).mean()
    excess = (n + 1) * (mean_square - mean**2 / d)
    shrinkage = min(1.0, (mean_square + mean**2) / excess) if excess > 0 else 1.0
    return (1 - shrinkage) * covariance + shrinkage * max(mean, _LEAST_VARIANCE) * np.eye(d)
