"""Calls of torch that are recorded once and repeated for each batch, on buffers that stay where they are.

A batch of features is some forty short calls. Recorded, they cost no Python but the calls themselves, and no memory is
asked for, which the operating system would have to clear first: both take as long as the products that they surround.
"""

from functools import partial

import numpy as np
import torch

from ..network import split_parts


class Tape:
    """A sequence of calls on fixed buffers, for the CPU.

    Parameters
    ----------
    dtype : torch.dtype
        Of the buffers.
    """

    def __init__(self, dtype):
        self.dtype = dtype
        self._calls = []

    def __call__(self, function, *args, **kwargs):
        """Record a call."""
        self._calls.append(partial(function, *args, **kwargs))

    def new(self, *shape):
        """Return a buffer."""
        return torch.empty(shape, dtype=self.dtype)

    def run(self):
        """Make the calls."""
        for call in self._calls:
            call()


def record_logits(tape, parameters, x, M, N):
    """Record what leads from a batch to the logits of p_m (section 3): trunk and part networks.

    Parameters
    ----------
    tape : Tape
        Takes the calls.
    parameters : dict of str to Tensor
        By their names in `DPQNetwork`.
    x : Tensor of shape (B, n_units)
        Buffer with the batch.
    M, N : int
        Number of parts, and width of a sub-vector.

    Returns
    -------
    units : list of Tensor of shape (B, .)
        x, and what each layer of the trunk makes of it.
    s : list of Tensor of shape (M, B, .)
        Sub-vectors s_m, what each layer of the part networks makes of them, and last the logits (M, B, K).
    """
    B = len(x)
    units = [x]
    while f"trunk.{len(units) - 1}.weight" in parameters:
        weight, bias = (parameters[f"trunk.{len(units) - 1}.{name}"] for name in ("weight", "bias"))
        out = tape.new(B, len(bias))
        tape(torch.addmm, bias, units[-1], weight.T, out=out)
        tape(out.relu_)
        units.append(out)
    s = [split_parts(units[-1], M, N)]
    while f"parts.{len(s) - 1}.weight" in parameters:
        weight, bias = (parameters[f"parts.{len(s) - 1}.{name}"] for name in ("weight", "bias"))
        out = tape.new(M, B, weight.shape[2])
        tape(torch.baddbmm, bias, s[-1], weight, out=out)
        if f"parts.{len(s)}.weight" in parameters:
            tape(out.relu_)
        s.append(out)
    return units, s


def record_codes(tape, logits):
    """Record the codes of logits (M, B, K), as of `network.most_probable`; return the buffer for it, (M, B) int64."""
    codes = torch.empty(logits.shape[:2], dtype=torch.int64)
    tape(np.argmax, logits.numpy(), -1, codes.numpy())
    return codes
