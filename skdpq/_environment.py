"""Where torch computes, on how many threads, and from which global seed; nothing of it outlives a call."""

from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

_SHARED_PRODUCTS = 2**27  # multiply-adds of a forward pass above which threads share a training batch


def check_device(device):
    """Return the torch device that the parameter `device` names; raise ValueError where torch has none such."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Expected a device that torch can use here, got device={str(device)!r}: {error}") from error
    return device


def threads_for(network, batch_size):
    """Limit OpenMP to one thread for batches too small to share.

    Threads meet at a barrier after each of some hundred short products of a step; on a busy machine every meeting
    costs a time slice, which made training a hundred times slower than on one thread. The rule counts, rather than
    measures, so that the same seed adds up in the same order.
    """
    n_weights = sum(parameter.numel() for parameter in network.parameters())
    small = network.backbone is None and n_weights * batch_size < _SHARED_PRODUCTS
    return threadpool_limits(1 if small else None, user_api="openmp")


@contextmanager
def seeded_globally(generator, device, enabled):
    """Seed torch's global generator, from which a backbone's dropout and an augmentation draw, and put it back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=enabled):
        if enabled:
            torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        yield
