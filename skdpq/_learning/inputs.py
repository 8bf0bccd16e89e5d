"""Inputs of the network: tensors of standardized features, or the units that a backbone makes of samples.

`BaseDPQ` calls this room. Samples stay arrays, and are converted a block at a time, so nothing here copies X whole but
where a tensor or units of all of it are asked for.
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from .._arrays import one_at_a_time
from .samples import blocks_of, weight_exponent
from .user_code import check_finite, units_of

BACKBONE_SAMPLES = 1024  # at most, that a backbone takes at a time outside training
_BLOCK_SAMPLES = 8192  # at most, converted at a time
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
    generator : Generator or None
        Drops some of the features of which the base network computes units, where samples are learned from.
    """

    mean: np.ndarray | None
    scale: np.ndarray | None
    backbone: torch.nn.Module | None = None
    base: torch.nn.Module | None = None
    generator: torch.Generator | None = None

    def tensor(self, X, dtype=torch.float32, out=None):
        """Return samples, of any real dtype, as a tensor on the CPU that shares no memory with them.

        It is `out`, if given; X is then a block, and written at once.
        """
        if out is not None:
            self._write(X, out)
            return out
        tensor = torch.empty(X.shape if self.base is None else (len(X), self.base.n_classes), dtype=dtype)
        for rows in blocks_of(X, _BLOCK_SAMPLES):
            self._write(X[rows], tensor[rows])
        return tensor

    def n_values(self, X):
        """Return how many values the tensor of samples has."""
        return X.size if self.base is None else len(X) * self.base.n_classes

    def _write(self, X, out):
        """Write a block of samples to a tensor on the CPU."""
        if self.base is None:
            self._standardize(X, out)
        else:
            features = torch.empty(X.shape)
            self._standardize(X, features)
            out[...] = self.base.units(features, self.generator)

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
            blocks = (self.tensor(X[rows]).to(device) for rows in blocks_of(X, BACKBONE_SAMPLES))
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
        for rows in blocks_of(samples.X, BACKBONE_SAMPLES):
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
    refine = one_at_a_time(scaler.partial_fit)
    earlier = scaling or {"n_samples_seen_": 0}
    # The scaler takes a sum of weights for a number of samples, by which it tells what is constant: a power of two
    # brings the largest weight to about one, unless far more came before.
    exponent = weight_exponent(max(sample_weight.max(), 2.0**-40 * np.max(earlier["n_samples_seen_"])))
    for name, value in (scaling or {}).items():
        setattr(scaler, name, copy.copy(value))  # the scaler changes it in place
    if exponent:
        sample_weight = np.ldexp(sample_weight, -exponent)
        if scaling:
            scaler.n_samples_seen_ = np.ldexp(scaler.n_samples_seen_, -exponent)
    least, most = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for rows in blocks_of(X, _BLOCK_SAMPLES):
        refine(X[rows], sample_weight=sample_weight[rows])
        there = X[rows] if sample_weight[rows].all() else X[rows][sample_weight[rows] > 0]
        if len(there):
            np.minimum(least, there.min(axis=0), out=least)
            np.maximum(most, there.max(axis=0), out=most)
    if not np.isfinite(scaler.scale_).all():
        raise ValueError("Expected X of finite variance, got values too large for it.")
    learned = {name: getattr(scaler, name) for name in _SCALING}
    if exponent:
        learned["n_samples_seen_"] = np.ldexp(learned["n_samples_seen_"], exponent)
    # The mean of a constant is off by its rounding, which of a large one is large.
    constant = least == most
    if scaling:
        constant &= (scaling["var_"] == 0) & (scaling["mean_"] == least)
    learned["mean_"] = np.where(constant, least, learned["mean_"])
    learned["var_"] = np.where(constant, 0.0, learned["var_"])
    # What the scaler takes for a constant that was rounded is not scaled, but may be rounded by more than one.
    rounded = (learned["scale_"] == 1) & ~constant
    learned["scale_"] = np.where(rounded, np.maximum(1.0, np.sqrt(learned["var_"])), learned["scale_"])
    learned["scale_"][constant] = 1.0
    return learned


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
