"""FastStep: the training step of features on the CPU, with its gradients written out instead of recorded by autograd.

`step.make_step` chooses it. It equals `step.AutogradStep` to rounding, for any architecture, weights and number of
micro-batches (`tests/learning/test_fast_step.py`). It takes 1.1 to 1.6 times as many samples a second on one thread,
and 1.1 to 2.3 times as many on two (`benchmarks/speed/steps.py`, docs/training.md). Deleting this folder loses nothing
but that speed: `make_step` then has one step to choose. It calls a private function of torch, and `make_step` falls
back to `AutogradStep` where that is missing or differs.
"""

from .adamw import has_fused_adamw
from .step import FastStep, Plan

__all__ = ["FastStep", "Plan", "has_fused_adamw"]
