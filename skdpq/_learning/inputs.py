"""Inputs of the network: tensors of standardized features, or the units that a backbone makes of samples.

`BaseDPQ` calls this room. Samples stay arrays, and are converted a block at a time, so nothing here copies X whole but
where a tensor or units of all of it are asked for.
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from .user_code import check_finite, units_of

BACKBONE_SAMPLES = 1024  # that a backbone takes at a time outside training
_BLOCK_SAMPLES = 8192  # converted at a time
_SCALING = ("mean_", "var_", "scale_", "n_samples_seen_")


class Inputs(NamedTuple):
    """How samples become what the network takes.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_features,) or None
        Mean and standard deviation of the features; None where samples are taken as they are.
    backbone : Module or None
        Computes units outside training.
    base : BaseNetwork or None
        Whose units stand for the standardized features.
    """

    mean: np.ndarray | None
    scale: np.ndarray | None
    backbone: torch.nn.Module | None = None
    base: torch.nn.Module | None = None

    def tensor(self, X, dtype=torch.float32):
        """Return samples, of any real dtype, as a tensor on the CPU that shares no memory with them."""
        tensor = torch.empty(X.shape if self.base is None else (len(X), self.base.n_classes), dtype=dtype)
        for start in range(0, len(X), _BLOCK_SAMPLES):
            rows = slice(start, start + _BLOCK_SAMPLES)
            if self.base is None:
                self._standardize(X[rows], tensor[rows])
            else:
                features = torch.empty(X[rows].shape)
                self._standardize(X[rows], features)
                tensor[rows] = self.base.units(features)
        return tensor

    def n_values(self, X):
        """Return how many values the tensor of samples has."""
        return X.size if self.base is None else len(X) * self.base.n_classes

    def _standardize(self, X, out):
        """Write samples, standardized, to a tensor on the CPU."""
        precise = np.float32 if X.dtype in (np.float16, np.float32) else np.float64
        out = out.numpy()
        with np.errstate(over="ignore"):  # logits that are not finite tell of values too large
            X = X.astype(precise, copy=False)
            if self.mean is None:
                out[...] = X
            elif out.dtype == precise:
                np.subtract(X, self.mean.astype(precise), out=out)
                out /= self.scale.astype(precise)
            else:
                out[...] = (X - self.mean) / self.scale

    def units(self, X, device, n_units=None):
        """Return what the backbone, which is on a device, makes of samples: an array. X itself without a backbone.

        ValueError if that is not what `units_of` and `check_finite` expect.
        """
        if self.backbone is None:
            return X
        self.backbone.eval()
        with torch.inference_mode():
            blocks = (self.tensor(X[rows]).to(device) for rows in gen_batches(len(X), BACKBONE_SAMPLES))
            units = [check_finite(units_of(self.backbone, block, n_units)) for block in blocks]
            return np.concatenate([block.cpu().numpy() for block in units])

    def blocks(self, samples, dtype, device):
        """Yield the units, or standardized features, of samples and their weights, a block at a time.

        Parameters
        ----------
        samples : Samples
            The samples.
        dtype : torch.dtype
            In which features are standardized.
        device : torch.device
            Where the backbone is.

        Yields
        ------
        units, weight : ndarray of shape (n_block, n_units), (n_block,)
            A block.
        """
        for rows in gen_batches(len(samples.X), BACKBONE_SAMPLES):
            X = samples.X[rows]
            units = self.tensor(X, dtype).numpy() if self.backbone is None else self.units(X, device)
            yield units, samples.weight[rows]


def learn_scaling(X, sample_weight, scaling=None):
    """Learn the weighted mean and standard deviation of features, block by block.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Samples.
    sample_weight : ndarray of shape (n,)
        Their weights.
    scaling : dict, default=None
        What was learned from earlier samples, to be refined.

    Returns
    -------
    scaling : dict
        ``mean_``, ``var_``, ``scale_`` and ``n_samples_seen_`` of a StandardScaler.

    Raises
    ------
    ValueError
        If a variance is not finite.
    """
    scaler = StandardScaler()
    for name, value in (scaling or {}).items():
        setattr(scaler, name, copy.copy(value))  # the scaler changes it in place
    for rows in gen_batches(len(X), _BLOCK_SAMPLES):
        scaler.partial_fit(X[rows], sample_weight=sample_weight[rows])
    if not np.isfinite(scaler.scale_).all():
        raise ValueError("Expected X of finite variance, got values too large for it.")
    return {name: getattr(scaler, name) for name in _SCALING}


def no_scaling():
    """Return what `learn_scaling` returns, for samples that are taken as they are."""
    return dict.fromkeys(_SCALING)


def output_width(backbone, X):
    """Return the number of units that a backbone gives for a sample.

    Parameters
    ----------
    backbone : Module
        The backbone; moved to the CPU in float32, and left in evaluation mode.
    X : ndarray of shape (n, ...)
        Samples, of which two are tried.

    Returns
    -------
    n_units : int
        The number of units.

    Raises
    ------
    ValueError
        If it does not return (n, n_units) in float32, or units that are not finite.
    """
    backbone.to("cpu", torch.float32).eval()
    with torch.no_grad():  # no inference mode, as parameters of lazy layers are made now
        return check_finite(units_of(backbone, torch.from_numpy(X[:2].astype(np.float32)))).shape[1]
