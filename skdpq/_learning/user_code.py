"""Code of users that training runs, a backbone and an augmentation: what it returns is checked at each call.

The network, `BaseDPQ` for `inference`, `Inputs` and `Projection` ask for the units of a backbone, `training` for an
augmented batch, and files for the state of a backbone.
"""

import copy
from functools import partial

import numpy as np
import torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an item


def trains(backbone):
    """Return whether there is a backbone, and it has a parameter to train."""
    return backbone is not None and any(p.requires_grad for p in backbone.parameters())


def units_of(backbone, x, n_units=None):
    """Return the units that a backbone makes of a batch.

    Parameters
    ----------
    backbone : Module
        The backbone.
    x : Tensor of shape (B, ...)
        The batch.
    n_units : int, default=None
        Number of units, once it is known.

    Returns
    -------
    units : Tensor of shape (B, n_units)
        Of the dtype of x.

    Raises
    ------
    ValueError
        If the backbone returns anything else.
    """
    units = backbone(x)
    if not isinstance(units, torch.Tensor):
        raise ValueError(f"Expected a backbone that returns one tensor, got {type(units).__name__}.")
    n_expected = units.shape[-1] if n_units is None and units.ndim else n_units
    if units.shape != (len(x), n_expected) or not n_expected:
        expected = f"({len(x)}, {'n_units' if n_units is None else n_units})"
        raise ValueError(
            f"Expected a backbone that returns (n_samples, n_units), here {expected}, got {tuple(units.shape)}."
        )
    if units.dtype != x.dtype:
        raise ValueError(f"Expected a backbone that returns {x.dtype}, the dtype of its input, got {units.dtype}.")
    return units


def fitted_units(backbone, n_units, device):
    """Return what computes the units of a batch as they were fitted.

    Parameters
    ----------
    backbone : Module or None
        The fitted backbone, on the CPU, where it stays.
    n_units : int
        Number of units.
    device : torch.device
        Where to compute them.

    Returns
    -------
    units : callable or None
        Takes a batch on that device; None without a backbone.
    """
    if backbone is None:
        return None
    backbone = backbone if device.type == "cpu" else copy.deepcopy(backbone)
    return partial(units_of, backbone.to(device).eval(), n_units=n_units)


def check_finite(units):
    """Return units as they are; ValueError if one is not finite."""
    if not torch.isfinite(units).all():
        raise ValueError("Expected a backbone that returns finite units, got NaN or infinity.")
    return units


def augmented(augment, x, resizes):
    """Return a batch as an augmentation changes it.

    Parameters
    ----------
    augment : callable
        The augmentation.
    x : Tensor of shape (B, ...)
        The batch.
    resizes : bool
        Whether samples may change their shape, which a backbone may allow.

    Returns
    -------
    x : Tensor of shape (B, ...)
        Of the same dtype.

    Raises
    ------
    ValueError
        If the augmentation returns anything else, or numbers that are not finite.
    """
    result = augment(x)
    if not isinstance(result, torch.Tensor):
        raise ValueError(f"Expected an augment that returns a tensor, got {type(result).__name__}.")
    if result.dtype != x.dtype or len(result.shape) == 0 or len(result) != len(x):
        raise ValueError(
            f"Expected an augment that returns a tensor of as many samples, {len(x)} of {x.dtype}, "
            f"got shape {tuple(result.shape)} of {result.dtype}."
        )
    if not resizes and result.shape != x.shape:
        raise ValueError(
            f"Expected an augment that returns samples of the shape that it was given, {tuple(x.shape)}, "
            f"got {tuple(result.shape)}."
        )
    if not torch.isfinite(result).all():
        raise ValueError("Expected an augment that returns finite numbers, got NaN or infinity.")
    return result


def state_arrays(module):
    """Return the state of a module as arrays.

    Parameters
    ----------
    module : Module
        The module.

    Returns
    -------
    arrays : list of tuple
        Name, type and array of each tensor; one of a type that NumPy does not have has integers of the same bits.
    frozen : list of str
        Parameters that are not trained.

    Raises
    ------
    TypeError
        If its state holds more than real tensors.
    """
    arrays = []
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.is_quantized:
            raise TypeError(f"Expected a backbone whose state is real tensors, got {name}={tensor!r:.200}.")
        tensor = tensor.detach().to("cpu")
        dtype = str(tensor.dtype).removeprefix("torch.")
        arrays.append((name, dtype, (tensor if hasattr(np, dtype) else tensor.view(_BITS[tensor.itemsize])).numpy()))
    return arrays, [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def with_state(module, arrays, frozen):
    """Return a copy of a module, on the CPU, with the state that `state_arrays` gave.

    Parameters
    ----------
    module : Module
        It stays as it is.
    arrays, frozen
        From `state_arrays`.

    Returns
    -------
    module : Module
        The copy.

    Raises
    ------
    TypeError
        If the arrays are none of `state_arrays`.
    ValueError
        If the module has another state.
    """
    state = {}
    for name, dtype, array in arrays:
        dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else None
        tensor = torch.from_numpy(array)
        if not isinstance(dtype, torch.dtype) or dtype.itemsize != tensor.itemsize or dtype.is_complex:
            raise TypeError(f"expected a type of {tensor.itemsize} bytes of {name!r:.100}, got {dtype!r:.50}.")
        state[name] = tensor.view(dtype)
    module = copy.deepcopy(module).to("cpu")
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"Expected a backbone with the state that is in the file: {error}") from error
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(name not in frozen)
    return module
