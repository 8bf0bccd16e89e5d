"""Codes: what they may hold, and how they pack into bytes (section 3.1.1)."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_scalar

from ._arrays import as_array, check_array

_LIMB = 32  # bits; a limb times the largest K (2^16) plus a carry fits 64 bits


def code_dtype(K):
    """Return the smallest unsigned dtype that holds a code.

    Parameters
    ----------
    K : int
        Number of codewords a part, at most 65,536.

    Returns
    -------
    dtype : numpy.dtype
        ``uint8`` up to 256 codewords, ``uint16`` above.
    """
    return np.dtype(np.uint8 if K <= 256 else np.uint16)


def check_codes(codes, M, K):
    """Validate codes and return them as a C-contiguous (n, M) array.

    Parameters
    ----------
    codes : array-like of shape (n, M)
        Integers in ``range(K)``.
    M, K : int
        Number of parts and of codewords a part.

    Returns
    -------
    codes : ndarray of shape (n, M), uint8 or uint16
        The codes; the caller's own array where it needs no conversion.

    Raises
    ------
    TypeError
        If the codes are sparse.
    ValueError
        If the codes are not integers, not of width M, or out of range.
    """
    if not (type(codes) is np.ndarray and codes.ndim == 2):  # for an array, the check takes as long as a small search
        codes = check_array(
            as_array(codes), dtype=None, ensure_min_samples=0, ensure_min_features=0, input_name="codes"
        )
    if codes.dtype.kind not in "iu":
        raise ValueError(f"Expected integer codes, got dtype {codes.dtype}.")
    if codes.shape[1] != M:
        raise ValueError(f"Expected codes of shape (n, {M}), one column a part, got {codes.shape}.")
    any_will_do = codes.dtype.kind == "u" and np.iinfo(codes.dtype).max < K
    if codes.size and not any_will_do and (codes.min() < 0 or codes.max() >= K):
        raise ValueError(f"Expected codes in range({K}), got values from {codes.min()} to {codes.max()}.")
    return np.ascontiguousarray(codes, dtype=code_dtype(K))


def decode(codes, codebooks):
    """Return the hard representation of codes (equations 2 and 4).

    Parameters
    ----------
    codes : array-like of shape (n, M)
        Integers in ``range(K)``.
    codebooks : ndarray of shape (M, K, D)
        The codebooks C_m.

    Returns
    -------
    hard : ndarray of shape (n, M * D)
        Row z_m of every C_m, concatenated.

    Raises
    ------
    ValueError
        If the codes do not fit the codebooks.
    """
    M, K, D = codebooks.shape
    codes = check_codes(codes, M, K)
    return codebooks[np.arange(M), codes].reshape(len(codes), M * D)


def packed_width(M, K):
    """Return the bytes that one packed row takes, ceil(M log2(K) / 8).

    Parameters
    ----------
    M, K : int
        Number of parts and of codewords a part.

    Returns
    -------
    n_bytes : int
        Computed in integers, so exact for any K.

    Raises
    ------
    TypeError
        If M or K is not an integer.
    ValueError
        If M is not positive, or K is not in 2..65,536.
    """
    M = check_scalar(M, "M", Integral, min_val=1)
    K = check_scalar(K, "K", Integral, min_val=2, max_val=65_536)
    return ((int(K) ** int(M) - 1).bit_length() + 7) // 8


def pack_codes(codes, K):
    """Pack codes to ceil(M log2(K) / 8) bytes a row, the paper's compressed representation.

    A row z is stored as the integer sum_m z_m K^m, little-endian. For K a power of two that is plain bit packing,
    and for any other K no bit is lost to rounding log2(K) up.

    Parameters
    ----------
    codes : array-like of shape (n, M)
        Integers in ``range(K)``.
    K : int
        Number of codewords a part, 2 to 65,536.

    Returns
    -------
    packed : ndarray of shape (n, ceil(M * log2(K) / 8)), uint8
        The packed rows.

    Raises
    ------
    TypeError
        If the codes are sparse, or K is not an integer.
    ValueError
        If the codes are not integers in ``range(K)``, or K is out of range.

    Examples
    --------
    >>> from skdpq._codes import pack_codes, unpack_codes
    >>> packed = pack_codes([[1, 2, 3, 4], [5, 6, 7, 8]], K=10)
    >>> packed.shape  # 4 digits: 13.3 bits
    (2, 2)
    >>> unpack_codes(packed, M=4, K=10)
    array([[1, 2, 3, 4],
           [5, 6, 7, 8]], dtype=uint8)
    """
    M = np.shape(codes)[1] if np.ndim(codes) == 2 else 1
    width = packed_width(M, K)
    codes = check_codes(codes, M, K)
    n = len(codes)
    limbs = np.zeros((-(-width * 8 // _LIMB), n), dtype=np.uint64)
    for m in reversed(range(M)):  # Horner's rule on integers of as many limbs as a row needs
        carry = codes[:, m].astype(np.uint64)
        for limb in limbs:
            limb *= np.uint64(K)
            limb += carry
            carry = limb >> np.uint64(_LIMB)
            limb &= np.uint64(2**_LIMB - 1)
    as_bytes = np.ascontiguousarray(limbs.T.astype("<u4")).view(np.uint8)
    return np.ascontiguousarray(as_bytes[:, :width])


def unpack_codes(packed, M, K):
    """Undo `pack_codes`.

    Parameters
    ----------
    packed : array-like of shape (n, ceil(M * log2(K) / 8)), uint8
        Packed rows.
    M, K : int
        Number of parts and of codewords a part.

    Returns
    -------
    codes : ndarray of shape (n, M), uint8 or uint16
        The codes.

    Raises
    ------
    TypeError
        If M or K is not an integer.
    ValueError
        If M or K is out of range, or `packed` is not uint8 of the right width, or holds a value that no codes pack to.
    """
    packed = np.asarray(packed)
    width = packed_width(M, K)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != width:
        raise ValueError(
            f"Expected packed codes of dtype uint8 and shape (n, {width}) for M={M}, K={K}, "
            f"got {packed.dtype} and {packed.shape}."
        )
    n = len(packed)
    n_limbs = -(-width * 8 // _LIMB)
    as_bytes = np.zeros((n, n_limbs * _LIMB // 8), dtype=np.uint8)
    as_bytes[:, :width] = packed
    limbs = np.ascontiguousarray(as_bytes.view("<u4").T).astype(np.uint64)
    codes = np.empty((n, M), dtype=code_dtype(K))
    for m in range(M):  # the remainder of a long division by K is the next digit
        remainder = np.zeros(n, dtype=np.uint64)
        for limb in limbs[::-1]:
            remainder <<= np.uint64(_LIMB)
            remainder |= limb
            limb[:] = remainder // np.uint64(K)
            remainder %= np.uint64(K)
        codes[:, m] = remainder
    if limbs.any():
        raise ValueError(f"Expected packed rows below K**M = {K}**{M}, got a larger value; were M and K the same?")
    return codes
