"""From features to codes or to soft on the CPU, in blocks that stay in the cache, a thread each."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .._threads import limited_threads
from .fast_step.recording import Tape, record_codes, record_logits
from .network import split_parts

_BLOCK = 2**19  # logits (M, B, K), and entries of p, at a time in each thread: 2 MB in float32, a large L2 cache
_WORTH_THREADS = 2**26  # multiply-adds


def encode_features(parameters, X, convert, result):
    """Write the codes, or soft, of samples to an array.

    Parameters
    ----------
    parameters : dict of str to Tensor
        Of a `DPQNetwork` without a backbone, by name; on the CPU.
    X : ndarray of shape (n, n_units)
        Samples.
    convert : callable
        `convert(rows, out)` writes rows of X to a tensor, as the network takes them.
    result : ndarray of shape (n, M) or (n, M * D)
        Filled with codes if it holds integers, else with soft (equation 3).

    Returns
    -------
    finite : bool
        Whether the logits of all samples are.
    """
    M, K, _ = parameters["codebooks"].shape
    soft = result.dtype.kind == "f"
    size = max(1, _BLOCK // (M * K * (1 + soft)))
    starts = iter(range(0, len(X), size))

    def work():
        torch.get_num_threads()  # torch sets a thread's limit at its first call, which must not come after ours
        recorded, finite = {}, True
        with limited_threads(1), torch.inference_mode():
            for start in starts:
                rows = X[start : start + size]
                if len(rows) not in recorded:
                    recorded[len(rows)] = _Recorded(parameters, rows.shape, soft)
                block = recorded[len(rows)]
                convert(rows, block.x)
                block.tape.run()
                result[start : start + size] = block.result
                finite &= np.isfinite(block.check).all()
        return finite

    n_products = len(X) * sum(p.numel() for name, p in parameters.items() if name.startswith(("trunk.", "parts.")))
    n_threads = min(torch.get_num_threads(), math.ceil(len(X) / size)) if n_products >= _WORTH_THREADS else 1
    if n_threads == 1:
        return work()
    with ThreadPoolExecutor(n_threads) as pool:
        done = [pool.submit(work) for _ in range(n_threads)]
    return all(future.result() for future in done)


class _Recorded:
    """The calls for a block of samples, from `x` to `result`; `check` is finite if their logits are."""

    def __init__(self, parameters, shape, soft):
        codebooks = parameters["codebooks"]
        M, _, D = codebooks.shape
        self.tape = tape = Tape(codebooks.dtype)
        self.x = tape.new(*shape)
        logits = record_logits(tape, parameters, self.x, M, parameters["parts.0.weight"].shape[1])[1][-1]
        if soft:
            p, result = tape.new(*logits.shape), tape.new(shape[0], M * D)
            tape(torch.softmax, logits, -1, out=p)
            tape(torch.bmm, p, codebooks, out=split_parts(result, M, D))
            self.result, self.check = result.numpy(), p[:, :, 0].numpy()  # where one logit is not, all of p is NaN
        else:
            codes, largest = record_codes(tape, logits), tape.new(*logits.shape[:2], 1)
            tape(torch.gather, logits, 2, codes[:, :, None], out=largest)
            self.result, self.check = codes.numpy().T, largest.numpy()
