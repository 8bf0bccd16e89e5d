"""FastStep: AutogradStep on the CPU without autograd, its batches split into micro-batches with a thread each.

`step.make_step` chooses it. The micro-batches meet where GiniBatch needs the whole batch and where gradients are added
up. A thread that waits sleeps; threads within a product spin, which on a busy machine takes longer than the product.
How a batch is split depends on its size and the network alone, and gradients are added in one order: so neither the
number of threads nor what they are found to be worth changes a bit of the result.
"""

from contextlib import ExitStack
from typing import NamedTuple

import torch

from ..._threads import limited_threads
from .adamw import adamw
from .micro_batch import MicroBatch
from .threads import Faster, Worker


class Plan(NamedTuple):
    """When a step is shared out.

    Attributes
    ----------
    split_products : int
        Multiply-adds of a batch's forward pass from which it is split; meeting takes longer than what fewer take.
    share_products : int
        The same of a micro-batch, from which its products are shared out, too.
    n_trials : int
        Steps to time on one thread, and on two; 0 to take two without a trial.
    """

    split_products: int = 2**22
    share_products: int = 2**27
    n_trials: int = 5


class FastStep:
    """Trains a network without a backbone by AdamW, a batch at a time; a context manager, which holds the threads.

    Parameters
    ----------
    network : DPQNetwork
        On the CPU. Its parameters become views of one array, and are updated in place.
    objective : Objective
        What is minimized.
    weight_decay : float
        Of the layers' weights.
    batch_size : int
        Samples a batch at most.
    generator : torch.Generator
        Seeds the dropout.
    plan : Plan, default=Plan()
        When to share out the work.

    Attributes
    ----------
    n_steps : int
        Number of batches so far.
    """

    def __init__(self, network, objective, *, weight_decay, batch_size, generator, plan=Plan()):  # noqa: B008
        parameters = dict(network.named_parameters())
        # what decays comes first, so that any range of the array is updated in two calls
        self._names = sorted(parameters, key=lambda name: not name.endswith(".weight"))
        self._shapes = [parameters[name].shape for name in self._names]
        self._n_decayed = sum(parameters[name].numel() for name in self._names if name.endswith(".weight"))
        self._values = torch.cat([parameters[name].detach().reshape(-1) for name in self._names])
        views = self._views(self._values)
        for name, parameter in parameters.items():
            parameter.data = views[name]
        self._moments = torch.zeros_like(self._values), torch.zeros_like(self._values)
        self.n_steps = 0

        n_products = len(self._values) * batch_size
        n_micro_batches = 2 if n_products >= plan.split_products and batch_size > 1 else 1
        self._shares_products = n_products >= n_micro_batches * plan.share_products
        self._gradients = [torch.empty_like(self._values) for _ in range(n_micro_batches)]
        self._micro_batches = [
            MicroBatch(
                views | dict(network.named_buffers()), self._views(gradient), objective, network.dropout, generator
            )
            for gradient in self._gradients
        ]
        self._ranges = [self._range(i, n_micro_batches, weight_decay) for i in range(n_micro_batches)]
        self._scale = self._values.new_tensor([1.0, 1.0, 0.5, 0.5, 1 / network.M, -1 / network.M])
        self._n_trials = plan.n_trials
        self._held, self._worker = ExitStack(), None  # what `stop` ends

    def _views(self, flat):
        pieces = flat.split([shape.numel() for shape in self._shapes])
        return {name: piece.view(shape) for name, shape, piece in zip(self._names, self._shapes, pieces, strict=True)}

    @property
    def state(self):
        """State of AdamW: the number of steps, and both moments by the names of the parameters, as arrays."""
        moments = [{name: view.numpy().copy() for name, view in self._views(flat).items()} for flat in self._moments]
        return {"step": self.n_steps, "exp_avg": moments[0], "exp_avg_sq": moments[1]}

    @state.setter
    def state(self, state):
        self.n_steps = state["step"]
        for flat, name in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
            views = self._views(flat)
            for key, value in state[name].items():
                views[key].copy_(torch.from_numpy(value))

    def __enter__(self):
        n_threads = torch.get_num_threads()
        limit = max(1, n_threads // len(self._micro_batches)) if self._shares_products else 1
        self._do = self._do_alone
        self._held.enter_context(limited_threads(limit))
        self._held.enter_context(torch.inference_mode())
        if len(self._micro_batches) > 1 and n_threads > 1:
            self._worker = Worker(limit)
            self._worker.start()
            self._do = Faster((self._do_alone, self._worker.share), self._n_trials)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End the threads, and what else begins with the context; called again after an interruption, end the rest."""
        if self._worker is not None:
            self._worker.stop()
        self._held.close()

    def __call__(self, X, y, weight, batch, learning_rate):
        """Learn from a batch.

        Parameters
        ----------
        X, y, weight : Tensor of shape (n, n_units), (n,) int64, (n,)
            Samples, class indices and positive weights.
        batch : Tensor of shape (B,), int64
            Rows of them.
        learning_rate : float
            Of AdamW.

        Returns
        -------
        terms : Tensor of shape (6,)
            Terms of the objective in the order of `TERMS`, unweighted.
        """
        self.n_steps += 1
        weight = weight.index_select(0, batch)
        weight /= weight.sum()
        n = len(self._micro_batches)
        cuts = tuple(batch.shape[0] * i // n for i in range(1, n))
        parts = [tensor.tensor_split(cuts) for tensor in (y.index_select(0, batch), weight, batch)]
        step = torch.tensor(float(self.n_steps))
        phases = (
            lambda i: self._micro_batches[i].forward(X, *(tensors[i] for tensors in parts)),
            lambda i: self._micro_batches[i].backward([micro_batch.mean for micro_batch in self._micro_batches]),
            lambda i: self._update(i, step, learning_rate),
        )
        self._do(phases)
        return sum(micro_batch.terms for micro_batch in self._micro_batches) * self._scale

    def _do_alone(self, phases):
        """Do each phase for all micro-batches, on this thread; `Worker.share` does it on two."""
        for phase in phases:
            for i in range(len(self._micro_batches)):
                phase(i)

    def _range(self, i, n_ranges, weight_decay):
        """Return the i-th range of the parameters: views of all gradients; and what `adamw` takes of it."""
        n = len(self._values)
        start, stop = n * i // n_ranges, n * (i + 1) // n_ranges
        decayed = (start, min(stop, self._n_decayed), weight_decay)
        rest = (max(start, self._n_decayed), stop, 0.0)
        updated = self._values, self._gradients[0], *self._moments
        pieces = [
            ([tensor[first:last] for tensor in updated], decay)
            for first, last, decay in (decayed, rest)
            if first < last
        ]
        return [gradient[start:stop] for gradient in self._gradients], pieces

    def _update(self, i, step, learning_rate):
        """Add up the gradients of the micro-batches, and update by AdamW, in the i-th range of the parameters."""
        (gradient, *others), pieces = self._ranges[i]
        for other in others:
            gradient += other
        for tensors, weight_decay in pieces:
            adamw(*tensors, step, learning_rate, weight_decay)
