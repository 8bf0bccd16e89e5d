"""The fast training step beside AutogradStep, which computes the same: what writing out the gradients is worth.

    python benchmarks/speed/steps.py
    python benchmarks/speed/steps.py --rounds 15

Both train a network of their own on the same batches of 256 samples, in one process, a turn of about half a second each
after the other. The ratio is the median of those within each round; quartiles stand beside it. The steps are no part of
the public interface, so this imports them from where they are.

Times mean something on an idle machine only.
"""

import itertools
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from _architectures import DEFAULTS, training_cases
from _common import head, interleave, line, machine, make_parser, seconds
from threadpoolctl import threadpool_limits

from skdpq._learning.fast_step import FastStep, Plan
from skdpq._learning.losses import TERMS
from skdpq._learning.step import AutogradStep, Objective

BATCH, LEARNING_RATE = 256, 1e-3
THREADS = (1, 2)
TAKE_ALL_THREADS = Plan(n_trials=0)  # a turn is shorter than the trials by which a fit finds out how many are worth it


class Turn:
    """Trains by one kind of step; a call returns the seconds of a batch."""

    def __init__(self, make_step, case, threads, at_least):
        X, y = (torch.from_numpy(array) for array in case.samples())
        self.samples = X, y, torch.ones(len(X))
        self.batches = itertools.cycle(torch.arange(len(X) // BATCH * BATCH).split(BATCH))
        loss_weights = {name: DEFAULTS.get(f"{name}_weight", 0.0) for name in TERMS}  # without preservation
        objective = Objective(loss_weights, DEFAULTS["label_smoothing"], None)
        generator = torch.Generator().manual_seed(0)
        weight_decay = DEFAULTS["weight_decay"]
        network = case.network().train()
        self.step = make_step(network, objective, weight_decay=weight_decay, batch_size=BATCH, generator=generator)
        self.threads = threads
        self.n_batches = 5
        self.n_batches = max(1, int(at_least / self()))

    def __call__(self):
        with threadpool_limits(self.threads), self.step:
            return seconds(self.train) / self.n_batches

    def train(self):
        """Learn from some batches."""
        for batch in itertools.islice(self.batches, self.n_batches):
            self.step(*self.samples, batch, LEARNING_RATE)


def main():
    """Print a line for every architecture and number of threads."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn, about")
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds\n")
    print(head("architecture", "threads", "fast step, samples/s", "AutogradStep, samples/s", "ratio", "quartiles"))
    for case in training_cases():
        for threads in THREADS:
            steps = {"fast": partial(FastStep, plan=TAKE_ALL_THREADS), "autograd": AutogradStep}
            turns = {name: Turn(step, case, threads, options.seconds) for name, step in steps.items()}
            fast, autograd = (np.array(elapsed) for elapsed in interleave(turns, options.rounds).values())
            low, ratio, high = np.quantile(autograd / fast, (0.25, 0.5, 0.75))
            speeds = (f"{BATCH / np.median(elapsed):,.0f}" for elapsed in (fast, autograd))
            print(line(case.name, threads, *speeds, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"), flush=True)


if __name__ == "__main__":
    main()
