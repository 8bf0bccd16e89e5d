"""Posteriors of codes: the probability of each class, given a code alone, through LUTC (section 3.1.2).

`relevance` and its kernels, `ranking` and `scan_torch` call this. The scores of a code are its bias, plus its entries
of LUTC in the order of the parts, in float64. Their softmax is computed in float64 with the largest score subtracted,
and rounded once to float32. All posteriors come from `code_posterior`, whose operations are the same for a code
wherever it stands. Its exponential function is written out: that of a library of vector functions may round otherwise
than that of the C library, and then a posterior would depend on where in an array it is computed.
"""

import math
from typing import NamedTuple

import numpy as np

from .compiling import kernel, subroutine
from .simd import BLOCK_CODES, bits_double, double_bits
from .tables import as_float32

KEPT_POSTERIORS = 2**26  # entries of the posteriors of a segment's codes that are kept, at most: 256 MB
ROW_CODES = 16  # posteriors of so many codes are turned into columns at a time: 64 bytes of a row, a cache line
_LEAST_EXPONENT = -708.0  # below, exp leaves the normal float64 numbers; in float32 it is zero long before
_LOG2_E = 1 / math.log(2)
_LN2_HIGH = 6.93147180369123816490e-01  # the first bits of log(2), so that its products with integers are exact
_LN2_LOW = 1.90821492927058770002e-10  # the rest
_ROUND_TO_INTEGER = 1.5 * 2**52  # when it is added, a float64 has no room for a fraction, and the integer stands last
_C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12 = (1 / math.factorial(i) for i in range(3, 13))


class CodeClassifier(NamedTuple):
    """What classifies codes; kernels take it as it is.

    Attributes
    ----------
    lutc : ndarray of shape (M, K, C), float32
        LUTC_m[c, k] at ``[m, k, c]``.
    bias : ndarray of shape (C,), float32
        The bias b.
    """

    lutc: np.ndarray
    bias: np.ndarray

    def same_as(self, other):
        """Tell whether another gives each code the same posterior."""
        return self is other or all(map(np.array_equal, self, other))


def check_classifier(lutc, bias, M, K):
    """Return the classifier of some tables.

    Parameters
    ----------
    lutc : array-like of shape (M, K, C)
        Look-up tables.
    bias : array-like of shape (C,)
        Bias.
    M, K : int
        Number of parts and of codewords a part of the database.

    Returns
    -------
    classifier : CodeClassifier
        In float32.

    Raises
    ------
    ValueError
        If the shapes do not fit, there is no class, or a value is not finite.
    """
    lutc, bias = (as_float32(values, "classification tables and biases") for values in (lutc, bias))
    if bias.ndim != 1 or len(bias) == 0 or lutc.shape != (M, K, len(bias)):
        raise ValueError(
            f"Expected classification tables of shape (M, K, C) = ({M}, {K}, C) and C biases, "
            f"got {lutc.shape} and {bias.shape}."
        )
    if not (np.isfinite(lutc).all() and np.isfinite(bias).all()):
        raise ValueError("Expected finite classification tables and biases, got NaN or infinity (in float32).")
    return CodeClassifier(lutc, bias)


@subroutine(forceinline=True)
def exp(x):
    """Return exp(x) of a float64 that is not positive, to some 1e-16 of its value."""
    x = max(x, _LEAST_EXPONENT)
    shifted = x * _LOG2_E + _ROUND_TO_INTEGER
    n = shifted - _ROUND_TO_INTEGER
    x = (x - n * _LN2_HIGH) - n * _LN2_LOW
    power = ((((_C12 * x + _C11) * x + _C10) * x + _C9) * x + _C8) * x + _C7
    power = ((((power * x + _C6) * x + _C5) * x + _C4) * x + _C3) * x + 0.5
    power = (power * x + 1) * x + 1
    return power * bits_double((double_bits(shifted) + np.uint64(1023)) << np.uint64(52))


@kernel
def code_posteriors(codes, classifier):
    """Return the posteriors of codes.

    Parameters
    ----------
    codes : ndarray of shape (n, M)
        Valid codes.
    classifier : CodeClassifier
        What classifies them.

    Returns
    -------
    posteriors : ndarray of shape (n, C), float32
        The probability of each class.
    """
    scores = np.empty(len(classifier.bias))
    posteriors = np.empty((len(codes), len(scores)), dtype=np.float32)
    for i in range(len(codes)):
        code_posterior(codes[i], classifier, scores, posteriors[i])
    return posteriors


@subroutine
def block_posteriors(codes, n, classifier, rows, scores, posteriors):
    """Compute the posteriors of a block of codes.

    Parameters
    ----------
    codes : ndarray of shape (M, 256)
        Valid codes.
    n : int
        How many to look at; the posteriors of the others become zero.
    classifier : CodeClassifier
        What classifies them.
    rows, scores : ndarray of shape (16, C), float32, and (C,), float64
        To work in.
    posteriors : ndarray of shape (C, 256), float32
        Receives the probability of each class.
    """
    for first in range(0, BLOCK_CODES, ROW_CODES):
        for i in range(ROW_CODES):
            if first + i < n:
                code_posterior(codes[:, first + i], classifier, scores, rows[i])
            else:
                rows[i] = 0
        for c in range(len(scores)):
            for i in range(ROW_CODES):
                posteriors[c, first + i] = rows[i, c]


@subroutine
def code_summary(code, classifier, scores):
    """Return a code's most probable class, the probability of all others, its largest score, and its normalizer.

    The normalizer is what exponentials of how much scores are below the largest are multiplied by. `scores` is (C,),
    float64, to work in.
    """
    highest = code_scores(code, classifier, scores)
    top = 0
    while scores[top] < highest:
        top += 1
    total = _exponentials(scores, highest)
    return top, (total - 1) / total, highest, 1 / total


@subroutine
def code_posterior(code, classifier, scores, posterior):
    """Write the posterior of a code, (C,) float32; `scores` is (C,), float64, to work in."""
    normalizer = 1 / _exponentials(scores, code_scores(code, classifier, scores))
    for c in range(len(scores)):
        posterior[c] = np.float32(scores[c] * normalizer)


@subroutine
def code_scores(code, classifier, scores):
    """Write the scores of a code, (C,) float64, and return the largest."""
    lutc, bias = classifier
    M, C = len(code), len(bias)
    for c in range(C):
        scores[c] = bias[c]
    for m in range(0, M - 3, 4):  # four parts at a time: half the loads and stores of one at a time
        t0, t1, t2, t3 = lutc[m, code[m]], lutc[m + 1, code[m + 1]], lutc[m + 2, code[m + 2]], lutc[m + 3, code[m + 3]]
        for c in range(C):
            scores[c] = scores[c] + np.float64(t0[c]) + np.float64(t1[c]) + np.float64(t2[c]) + np.float64(t3[c])
    for m in range(M // 4 * 4, M):
        table = lutc[m, code[m]]
        for c in range(C):
            scores[c] += np.float64(table[c])
    # Eight maxima side by side, as one waits for each comparison to end before the next begins.
    h0 = h1 = h2 = h3 = h4 = h5 = h6 = h7 = scores[0]
    for c in range(0, C - 7, 8):
        h0 = max(h0, scores[c])
        h1 = max(h1, scores[c + 1])
        h2 = max(h2, scores[c + 2])
        h3 = max(h3, scores[c + 3])
        h4 = max(h4, scores[c + 4])
        h5 = max(h5, scores[c + 5])
        h6 = max(h6, scores[c + 6])
        h7 = max(h7, scores[c + 7])
    for c in range(C // 8 * 8, C):
        h0 = max(h0, scores[c])
    return max(max(max(h0, h1), max(h2, h3)), max(max(h4, h5), max(h6, h7)))


@subroutine
def _exponentials(scores, highest):
    """Replace scores by the exponentials of how much they are below the highest, and return their sum."""
    C = len(scores)
    for c in range(C):
        scores[c] = exp(scores[c] - highest)
    # Eight sums side by side, as one waits for each addition to end before the next begins.
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for c in range(0, C - 7, 8):
        s0 += scores[c]
        s1 += scores[c + 1]
        s2 += scores[c + 2]
        s3 += scores[c + 3]
        s4 += scores[c + 4]
        s5 += scores[c + 5]
        s6 += scores[c + 6]
        s7 += scores[c + 7]
    for c in range(C // 8 * 8, C):
        s0 += scores[c]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
