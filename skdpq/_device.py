"""The parameter `device` of a search, for which torch is imported only where it names more than the CPU."""

from abc import ABC


class TorchDevice(ABC):  # noqa: B024, as nothing is derived from it
    """Stands for torch.device where parameters are validated."""

    __module__, __qualname__ = "torch", "device"

    @classmethod
    def __subclasshook__(cls, other):
        return (other.__module__, other.__qualname__) == ("torch", "device")


def search_device(device):
    """Return the torch device that searches.

    Parameters
    ----------
    device : str or torch.device
        The parameter; ``"auto"`` is a GPU if torch has one, else the CPU.

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
    from ._environment import check_device

    device = check_device(device)
    return None if device.type == "cpu" else device
