"""Where torch computes, on how many threads, and from which global seed; nothing of it outlives a call."""

from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


def check_device(device):
    """Return the torch device that the parameter `device` names; raise ValueError where torch has none such."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device).cpu()  # raises for "meta" too, which holds no data
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"Expected a device that torch can use here, got device={str(device)!r}: {error}") from error
    return device


def limited_threads(n):
    """Limit what the calling thread shares out by OpenMP, such as torch's products, to n threads; a context manager."""
    return _controller().limit(limits=n, user_api="openmp")


@cache
def _controller():
    return ThreadpoolController()  # it looks through all libraries, which takes milliseconds


@contextmanager
def seeded_globally(generator, device, enabled):
    """Seed torch's global generator, from which a backbone's dropout and an augmentation draw, and put it back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=enabled):
        if enabled:
            torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        yield
