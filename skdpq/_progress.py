"""Lines that tell how far the encoding of many samples is."""

from sklearn.utils import gen_batches

_FEWEST = 16384  # samples between two lines
_MOST = 10  # lines


def announced(n_samples, verbose):
    """Yield all samples at once, or, if there are many and `verbose`, in pieces with a printed line after each.

    Parameters
    ----------
    n_samples : int
        Number of samples.
    verbose : bool or int
        Whether to print.

    Yields
    ------
    rows : slice
        The next samples.
    """
    if not verbose or n_samples <= _FEWEST:
        yield slice(0, n_samples)
        return
    for rows in gen_batches(n_samples, _FEWEST * -(-n_samples // (_FEWEST * _MOST))):
        yield rows
        print(f"Encoded {rows.stop:,} of {n_samples:,} samples")
