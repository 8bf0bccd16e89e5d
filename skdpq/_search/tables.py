"""The paper's look-up tables (sections 3.1.2 to 3.1.4), and the queries that they are computed for.

`CodeIndex` and both scans call this for searches, `DPQClassifier` for its table. Distances are accumulated in float64
and rounded once to float32, so a table entry is the exact squared distance to rounding, whatever the scale or offset
of the vectors; a search then sums float32 entries in the order of the parts.
"""

from dataclasses import dataclass

import numpy as np

from .._arrays import as_array
from .._codes import decode
from .compiling import kernel


def as_float32(values, what):
    """Return numbers that a quantizer gives as the kernels take them: C-contiguous, aligned, native float32.

    Parameters
    ----------
    values : array-like
        Real numbers of any kind. Those that float32 cannot hold become infinite.
    what : str
        What they are, for the message.

    Returns
    -------
    values : ndarray
        The array itself where it needs no conversion.

    Raises
    ------
    ValueError
        If they are not real numbers.
    """
    values = np.asarray(as_array(values))
    if values.dtype.kind not in "fiu":
        raise ValueError(f"Expected {what} of real numbers, got dtype {values.dtype}.")
    with np.errstate(over="ignore"):
        return np.require(values, np.float32, "CA")


def lut_classification(codebooks, coef):
    """Tables of classification, LUTC (section 3.1.2).

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D)
        The codebooks C_m.
    coef : ndarray of shape (n_classes, M * D)
        Weights of the classifier, W transposed.

    Returns
    -------
    lutc : ndarray of shape (M, K, n_classes)
        LUTC_m[c, k] at ``[m, k, c]``, so that a code reads one contiguous row.
    """
    M, _, D = codebooks.shape
    return codebooks @ coef.reshape(len(coef), M, D).transpose(1, 2, 0)


def lut_asymmetric(codebooks, soft):
    """Tables of asymmetric comparison, LUTASym (section 3.1.4), for a block of queries.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D), float32
        The codebooks C_m.
    soft : ndarray of shape (n_queries, M * D), float32
        Soft representations of the queries.

    Returns
    -------
    tables : ndarray of shape (n_queries, M, K), float32
        Squared distances between part m of each query and codeword k.
    """
    tables = np.empty((len(soft), *codebooks.shape[:2]), dtype=np.float32)
    by_dimension = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
    _squared_distances(by_dimension, np.ascontiguousarray(soft), tables)
    return tables


def lut_symmetric(codebooks, codes):
    """Tables of symmetric comparison, the rows of LUTSym (section 3.1.3) that a block of queries needs.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D), float32
        The codebooks C_m.
    codes : ndarray of shape (n_queries, M)
        Codes of the queries.

    Returns
    -------
    tables : ndarray of shape (n_queries, M, K), float32
        LUTSym_m[z_m, k] of each query.
    """
    M, K, _ = codebooks.shape
    if len(codes) <= K:
        return lut_asymmetric(codebooks, decode(codes, codebooks))
    # The K codewords of all parts, as if they were K queries: LUTSym whole, at [k1, m, k2].
    whole = lut_asymmetric(codebooks, codebooks.transpose(1, 0, 2).reshape(K, -1))
    return whole[codes, np.arange(M)]


@dataclass(frozen=True)
class Queries:
    """The queries of a search: a scan asks for the tables or vectors of a block of them when it comes to it.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D), float32
        The codebooks of the database.
    values : ndarray of shape (n_queries, M) or (n_queries, M * D)
        Valid codes if `symmetric`, else soft representations.
    symmetric : bool
        Whether to compare symmetrically (section 3.1.3) or asymmetrically (3.1.4).
    """

    codebooks: np.ndarray
    values: np.ndarray
    symmetric: bool

    def __len__(self):
        return len(self.values)

    def tables(self, block):
        """Return the look-up tables of a slice of the queries, (n, M, K) float32; ValueError if they are too large."""
        tables = (lut_symmetric if self.symmetric else lut_asymmetric)(self.codebooks, self.values[block])
        if tables.size:
            check_range(tables.max(), len(self.codebooks))
        return tables

    def vectors(self, block):
        """Return the vectors of a slice of the queries, (n, M * D): hard or soft."""
        return decode(self.values[block], self.codebooks) if self.symmetric else self.values[block]


def check_range(largest, M):
    """Raise ValueError unless sums of M table entries fit float32.

    Parameters
    ----------
    largest : float
        The largest entry.
    M : int
        Number of parts.

    Raises
    ------
    ValueError
        If they might not, or the largest is NaN.
    """
    if not largest < np.finfo(np.float32).max / M:
        raise ValueError("Expected queries and codebooks whose squared distances fit float32, got larger ones.")


@kernel
def _squared_distances(by_dimension, soft, tables):
    M, D, K = by_dimension.shape
    total = np.empty(K, dtype=np.float64)
    for q in range(len(soft)):
        for m in range(M):
            total[:] = 0.0
            for d in range(D):
                x = np.float64(soft[q, m * D + d])
                row = by_dimension[m, d]
                for k in range(K):  # vectorizes: each k sums on its own, in the order of d
                    difference = np.float64(row[k]) - x
                    total[k] += difference * difference
            for k in range(K):
                tables[q, m, k] = np.float32(total[k])


def largest_square(radius):
    """Return the largest float32 whose square root, in float64, is at most `radius`; negative if there is none."""
    if radius < 0:
        return np.float32(-1)
    square = np.float32(min(radius * radius, float(np.finfo(np.float32).max)))
    while np.sqrt(np.float64(square)) > radius:
        square = np.nextafter(square, np.float32(-1))
    while square < np.finfo(np.float32).max:
        larger = np.nextafter(square, np.float32(np.inf))
        if np.sqrt(np.float64(larger)) > radius:
            break
        square = larger
    return square
