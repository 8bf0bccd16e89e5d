"""The parameter `device`: where to fit or to search. Torch is imported only where more than the CPU is named."""

from abc import ABC


class TorchDevice(ABC):  # noqa: B024, as nothing is derived from it
    """Stands for torch.device where parameters are validated, without importing torch."""

    __module__, __qualname__ = "torch", "device"

    @classmethod
    def __subclasshook__(cls, other):
        return (other.__module__, other.__qualname__) == ("torch", "device")


def check_device(device):
    """Return the torch device that the parameter `device` names.

    Parameters
    ----------
    device : str or torch.device
        The parameter; ``"auto"`` is an accelerator if torch has one, else the CPU.

    Returns
    -------
    device : torch.device
        The device.

    Raises
    ------
    ValueError
        If torch has no such device here.
    """
    import torch

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


def search_device(device):
    """Return the torch device that searches.

    Parameters
    ----------
    device : str or torch.device
        The parameter, as for `check_device`.

    Returns
    -------
    device : torch.device or None
        None for the CPU, where Numba searches.

    Raises
    ------
    ValueError
        If torch has no such device here.
    """
    if device == "cpu":
        return None
    device = check_device(device)
    return None if device.type == "cpu" else device
