"""AdamW by one private function of torch, and whether this torch has that function as it is called here.

`FastStep` calls `adamw` for a range of the parameters; `step.make_step` asks `has_fused_adamw` before it takes
`FastStep`.
"""

from functools import cache

import torch

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # torch's defaults


def adamw(values, gradient, mean, mean_of_squares, step, learning_rate, weight_decay):
    """Update parameters in place, as `torch.optim.AdamW` would, without its overhead.

    Parameters
    ----------
    values, gradient, mean, mean_of_squares : Tensor of shape (n,)
        Parameters, their gradient, and both moments, which are updated in place.
    step : Tensor of shape ()
        Number of steps, with this one, as a float.
    learning_rate, weight_decay : float
        Of AdamW.
    """
    torch._fused_adamw_(
        [values],
        [gradient],
        [mean],
        [mean_of_squares],
        [],
        [step],
        lr=learning_rate,
        beta1=_BETA1,
        beta2=_BETA2,
        weight_decay=weight_decay,
        eps=_EPS,
        amsgrad=False,
        maximize=False,
    )


@cache
def has_fused_adamw():
    """Return whether `adamw` works with this torch, and does what AdamW does (Loshchilov & Hutter, 2019).

    It is tried once, against the formula: torch.optim.AdamW takes a second to import.
    """
    values, mean, mean_of_squares = torch.linspace(-1, 1, 5), torch.zeros(5), torch.zeros(5)
    expected, expected_mean, expected_squares = values.clone(), 0.0, 0.0
    for n_steps in (1, 2):
        gradient = torch.linspace(-2, n_steps, 5)
        expected_mean = _BETA1 * expected_mean + (1 - _BETA1) * gradient
        expected_squares = _BETA2 * expected_squares + (1 - _BETA2) * gradient**2
        root = (expected_squares / (1 - _BETA2**n_steps)).sqrt() + _EPS
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * expected_mean / (1 - _BETA1**n_steps) / root
        try:
            step = torch.tensor(float(n_steps))
            adamw(values, gradient, mean, mean_of_squares, step, learning_rate=0.1, weight_decay=0.5)
        except (AttributeError, TypeError, RuntimeError):
            return False
    return torch.allclose(values, expected)
