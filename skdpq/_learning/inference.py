"""The encoder: codes, or soft, of many samples, by one loop over blocks for every network and every device.

`_base.BaseDPQ` calls it. The logits of a block stay in the cache of the thread that computes them, and the result does
not depend on the number of threads.
"""

import math

import numpy as np
import torch

from .._threads import limited_threads, run
from .network import Activations, layers, most_probable, split_parts

_CPU_BLOCK_ENTRIES = 2**20  # of logits (M, B, K), and of p, at a time in each thread: 4 MB; with half, two threads lose
_DEVICE_BLOCK_ENTRIES = 2**24  # the same on an accelerator: 64 MB
_CPU_BLOCK_ROWS, _DEVICE_BLOCK_ROWS = 2**11, 2**13  # at most; a backbone may need much memory for each
_BLOCK_VALUES = 2**22  # of X at a time in each thread: 32 MB of float64
_WORTH_THREADS_PRODUCTS = 2**26  # multiply-adds


def infer(parameters, X, to_tensor, result, backbone=None):
    """Write the codes, or soft, of samples to an array.

    Parameters
    ----------
    parameters : dict of str to Tensor
        By their names in `DPQNetwork`, on the device that computes.
    X : ndarray of shape (n, ...)
        Samples.
    to_tensor : callable
        `to_tensor(rows, dtype, out)` returns rows of X as a tensor on the CPU, as the network takes them: `out`, or a
        new one where that is None.
    result : ndarray of shape (n, M) or (n, M * D)
        Filled with codes if it holds integers, else with soft (equation 3).
    backbone : callable, default=None
        Computes the units of a block in front of the network, on its device; called from this thread alone.

    Returns
    -------
    finite : bool
        Whether the largest logit of each part of each sample is finite.
    """
    M, K, _ = parameters["codebooks"].shape
    on_cpu = parameters["codebooks"].device.type == "cpu"
    n_entries, n_rows = (_CPU_BLOCK_ENTRIES, _CPU_BLOCK_ROWS) if on_cpu else (_DEVICE_BLOCK_ENTRIES, _DEVICE_BLOCK_ROWS)
    n_each = M * K * (2 if result.dtype.kind == "f" else 1)  # soft takes the logits and p
    size = max(1, min(n_rows, n_entries // n_each, _BLOCK_VALUES // max(1, math.prod(X.shape[1:]))))
    starts = iter(range(0, len(X), size))  # of the blocks that are left, for all threads

    def work():
        return _infer_blocks(parameters, X, to_tensor, result, backbone, starts, size)

    def work_beside_others(_):
        torch.get_num_threads()  # may set a limit in a new thread, which must not come after ours
        with limited_threads(1):
            return work()

    if not on_cpu or backbone is not None:
        return work()
    n_products = len(X) * sum(weight.numel() for name in ("trunk", "parts") for weight, _ in layers(parameters, name))
    n_threads = min(torch.get_num_threads(), math.ceil(len(X) / size)) if n_products >= _WORTH_THREADS_PRODUCTS else 1
    return all(run(work_beside_others, range(n_threads), n_threads))


def _infer_blocks(parameters, X, to_tensor, result, backbone, starts, size):
    """Write the codes, or soft, of blocks to an array; return whether their largest logits are finite."""
    device, dtype = parameters["codebooks"].device, parameters["codebooks"].dtype
    soft = result.dtype.kind == "f"
    blocks = {}  # by their numbers of samples: all but the last have the same
    finite = True
    with torch.inference_mode():
        for start in starts:
            rows = X[start : start + size]
            if len(rows) not in blocks:
                blocks[len(rows)] = (_SoftBlock if soft else _CodesBlock)(parameters, len(rows))
            block = blocks[len(rows)]
            block.samples = to_tensor(rows, dtype, block.samples)
            x = block.samples.to(device)
            finite &= block.write(x if backbone is None else backbone(x), result[start : start + size])
    return bool(finite)


class _Block:
    """The logits of a block of B samples, in buffers that are laid out once."""

    def __init__(self, parameters, B):
        self._activations = Activations(parameters, B)
        self.samples = None  # the tensor that holds those of each block in turn

    def _logits(self, x):
        """Return the logits (M, B, K) of x (B, n_units)."""
        if x is not self._activations.units[0]:
            self._activations.place(x)
        self._activations.aim()
        return self._activations.fill()


class _CodesBlock(_Block):
    """Codes of a block of B samples."""

    def __init__(self, parameters, B):
        super().__init__(parameters, B)
        codebooks = parameters["codebooks"]
        self._codes = codebooks.new_empty(len(codebooks), B, 1, dtype=torch.int64)
        self._largest = codebooks.new_empty(len(codebooks), B, 1)

    def write(self, x, result):
        """Write the codes of x (B, n_units) to an array (B, M); return whether their logits are finite."""
        logits = self._logits(x)
        most_probable(logits, out=self._codes)
        torch.gather(logits, 2, self._codes, out=self._largest)
        result[...] = self._codes.cpu().numpy()[:, :, 0].T
        return np.isfinite(self._largest.cpu().numpy()).all()


class _SoftBlock(_Block):
    """Soft of a block of B samples."""

    def __init__(self, parameters, B):
        super().__init__(parameters, B)
        self._codebooks = parameters["codebooks"]
        M, K, D = self._codebooks.shape
        self._p = self._codebooks.new_empty(M, B, K)
        self._soft = self._codebooks.new_empty(B, M * D)
        self._soft_of_parts = split_parts(self._soft, M, D)

    def write(self, x, result):
        """Write soft of x (B, n_units) to an array (B, M * D); return whether p is finite."""
        torch.softmax(self._logits(x), -1, out=self._p)
        torch.bmm(self._p, self._codebooks, out=self._soft_of_parts)
        result[...] = self._soft.cpu().numpy()
        return np.isfinite(self._p[:, :, 0].cpu().numpy()).all()  # where the largest logit is not, all of p is NaN
