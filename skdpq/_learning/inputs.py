"""How samples become what the network takes: tensors of standardised features, or units of a backbone."""

import copy

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from . import batches as _batches
from .batches import InMemory, Streamed

AT_ONCE = 1024  # samples that a backbone takes at a time outside training
_SCALER_STATE = ("mean_", "var_", "scale_", "n_samples_seen_")


class SamplesMixin:
    """Standardises and converts samples, for an estimator that may have a backbone."""

    def _standardise(self, X, sample_weight, first=True):
        """Learn the weighted mean and standard deviation of the features, block by block; not with a backbone."""
        scaler = StandardScaler()
        if not first:
            for name in _SCALER_STATE:
                setattr(scaler, name, copy.copy(getattr(self, name)))
        if self.backbone is None:
            for block in gen_batches(len(X), 8192):
                scaler.partial_fit(X[block], sample_weight=sample_weight[block])
            if not np.isfinite(scaler.scale_).all():
                raise ValueError("Expected X of finite variance, got values too large for it.")
        for name in _SCALER_STATE:
            setattr(self, name, getattr(scaler, name, None))

    def _units(self, X, backbone, network):
        """Return what the backbone makes of X, an array; X itself without."""
        if backbone is None:
            return X
        backbone.eval()
        units = np.empty((len(X), network.n_units), dtype=np.float32)
        with torch.inference_mode():
            for rows in gen_batches(len(X), AT_ONCE):
                x = self._to_tensor(X[rows], torch.float32).to(network.codebooks.device)
                units[rows] = backbone(x).cpu().numpy()
        return units

    def _tensors(self, X, y, weight, network):
        dtype = network.codebooks.dtype
        return self._to_tensor(X, dtype), torch.from_numpy(y), torch.from_numpy(weight).to(dtype)

    def _make_batches(self, X, y, weight, network, device):
        """Return the source of training batches."""
        if 4 * X.size > _batches.IN_MEMORY:
            return Streamed(X, y, weight, self.batch_size, lambda rows: self._to_tensor(rows, torch.float32), device)
        if not weight.all():
            kept = weight > 0
            X, y, weight = X[kept], y[kept], weight[kept]
        return InMemory(*(tensor.to(device) for tensor in self._tensors(X, y, weight, network)), self.batch_size)

    def _to_tensor(self, X, dtype):
        """Convert samples to a tensor that shares no memory with X, block by block."""
        tensor = torch.empty(X.shape, dtype=dtype)
        for start in range(0, len(X), 8192):
            self._convert(X[start : start + 8192], tensor[start : start + 8192])
        return tensor

    def _convert(self, X, out):
        """Write samples to a tensor on the CPU, standardised without a backbone."""
        precise = np.float32 if X.dtype in (np.float16, np.float32) else np.float64
        out, X = out.numpy(), X.astype(precise, copy=False)
        if self.mean_ is None:
            out[...] = X
        elif out.dtype == precise:
            np.subtract(X, self.mean_.astype(precise), out=out)
            out /= self.scale_.astype(precise)
        else:
            out[...] = (X - self.mean_) / self.scale_


def output_width(backbone, X):
    """Return the number of units that the backbone gives for a sample."""
    backbone.to("cpu").eval()
    with torch.no_grad():
        output = backbone(torch.from_numpy(X[:2].astype(np.float32)))
    if output.ndim != 2 or len(output) != len(X[:2]):
        raise ValueError(f"Expected a backbone that returns (n_samples, n_units), got {tuple(output.shape)}.")
    return output.shape[1]
