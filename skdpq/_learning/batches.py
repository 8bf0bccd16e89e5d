"""Batches of training samples: tensors in memory, or rows of an array that is converted a chunk at a time.

`BaseDPQ` makes a source of batches, and `training` asks it for the batches of each epoch. A source holds no sample of
weight zero: such a sample is not there.
"""

import math

import numpy as np
import torch

from .samples import fits_in_memory

_CHUNK_BYTES = 2**14  # of float32 that are read in one piece
_MIXED_CHUNKS = 2**13  # at most, whose samples are in memory together, and shuffled: 128 MB


def make_batches(samples, batch_size, inputs, dtype, device, n_draws=1):
    """Return the source of training batches.

    Parameters
    ----------
    samples : Samples
        From `Samples.present`.
    batch_size : int
        Samples a batch at most.
    inputs : Inputs
        Converts them.
    dtype, device : torch.dtype, torch.device
        Of the network.
    n_draws : int, default=1
        How often an epoch visits each sample, converted anew each time; once, where there are too many samples.

    Returns
    -------
    batches : InMemory or Streamed
        Has `epoch(generator)`, `n_batches` and a length, the number of samples.
    """
    n_values = inputs.n_values(samples.X)
    if fits_in_memory(n_draws * n_values):
        X, y, weight = samples.tensors(inputs, dtype, device)
        if n_draws > 1:
            X = torch.cat([X, *(inputs.tensor(samples.X, dtype).to(device) for _ in range(n_draws - 1))])
            y, weight = y.repeat(n_draws), weight.repeat(n_draws)
        return InMemory(X, y, weight, batch_size)
    n_read = max(n_values, samples.X.size) // len(samples.X)
    return Streamed(samples.X, samples.y, samples.weight, n_read, batch_size, inputs.tensor, device)


class InMemory:
    """Samples on the device, permuted as a whole.

    Parameters
    ----------
    X, y, weight : Tensor of shape (n, ...), (n,) int64, (n,)
        Samples, class indices and positive sample weights, on the network's device.
    batch_size : int
        Samples a batch at most.
    """

    def __init__(self, X, y, weight, batch_size):
        self.tensors = X, y, weight
        self.n_batches = math.ceil(len(X) / batch_size)

    def __len__(self):
        return len(self.tensors[0])

    def epoch(self, generator):
        """Yield the batches of an epoch: X, y and weight, and which rows of them."""
        X, y, weight = self.tensors
        order = torch.randperm(len(self), generator=generator).to(X.device)
        for batch in order.tensor_split(self.n_batches):
            yield X, y, weight, batch


class Streamed:
    """Samples that are too many to convert at once; NumPy's memory maps among them.

    An epoch visits contiguous chunks in random order, and shuffles the samples of many chunks together: so a memory map
    is read in pieces, and samples that are sorted by class mix all the same. The chunks are small so that each shuffle
    has about its share of each class.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Samples; any real dtype.
    y : ndarray of shape (n,), int64
        Class indices.
    weight : ndarray of shape (n,)
        Sample weights; samples of weight zero are left out.
    n_values : int
        Values of a sample, as it is or converted, whichever has more.
    batch_size : int
        Samples a batch at most.
    convert : callable
        Returns a tensor of some rows of X.
    device : torch.device
        Where the network is. What is shuffled together goes there in one piece, through pinned memory if it can.
    """

    def __init__(self, X, y, weight, n_values, batch_size, convert, device):
        self.X, self.y, self.weight = X, y, weight
        self.batch_size, self.convert, self.device = batch_size, convert, device
        self.size = max(1, _CHUNK_BYTES // (4 * n_values))
        self.n_mixed = max(1, min(_MIXED_CHUNKS, _MIXED_CHUNKS * _CHUNK_BYTES // (4 * n_values * self.size)))
        starts = np.arange(0, len(X), self.size)
        self.starts = starts[np.add.reduceat(weight, starts) > 0]
        self.n = int(np.count_nonzero(weight))
        self.n_batches = math.ceil(self.n / batch_size)  # within a few, as groups of chunks are split on their own

    def __len__(self):
        return self.n

    def epoch(self, generator):
        """Yield the batches of an epoch: X, y and weight, and which rows of them."""
        starts = self.starts[torch.randperm(len(self.starts), generator=generator).numpy()]
        for first in range(0, len(starts), self.n_mixed):
            chunks = [slice(start, start + self.size) for start in starts[first : first + self.n_mixed]]
            X = self.convert(np.concatenate([self.X[chunk] for chunk in chunks]))
            y = torch.from_numpy(np.concatenate([self.y[chunk] for chunk in chunks]))
            weight = torch.from_numpy(np.concatenate([self.weight[chunk] for chunk in chunks])).to(X.dtype)
            kept = torch.nonzero(weight)[:, 0]
            kept = kept[torch.randperm(len(kept), generator=generator)]
            tensors = X, y, weight, kept
            if self.device.type == "cuda":
                tensors = [tensor.pin_memory() for tensor in tensors]
            X, y, weight, kept = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
            for batch in kept.tensor_split(math.ceil(len(kept) / self.batch_size)):
                yield X, y, weight, batch
