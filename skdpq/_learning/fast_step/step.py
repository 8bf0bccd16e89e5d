"""A training step on the CPU with its gradients written out; the same as `training.AutogradStep`, to rounding.

A batch is split into shards (`_shard`), each with a thread, which meet where GiniBatch needs the whole batch and where
gradients are added up. A thread that waits sleeps; threads within a product spin, which on a busy machine takes longer
than the product. How a batch is split depends on its size and the network alone, and shards are added in one order: so
the number of threads does not change a bit of the result.
"""

import queue
import threading
from contextlib import ExitStack

import torch

from ..._threads import limited_threads
from .micro_batch import Shard

_WORTH_SPLITTING = 2**22  # multiply-adds of a forward pass; for fewer, meeting takes longer than the work that is saved
_WORTH_THREADS = 2**27  # the same of a shard, for its products to be shared out too
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # of AdamW; torch's defaults


class RecordedStep:
    """Trains a network without a backbone by AdamW, a batch at a time; a context manager, which holds the threads.

    Parameters
    ----------
    network : DPQNetwork
        On the CPU. Its parameters become views of one array, and are updated in place.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    label_smoothing : float
        Of both softmax losses.
    weight_decay : float
        Of the layers' weights.
    batch_size : int
        Samples a batch at most.
    generator : torch.Generator
        Seeds what the network drops.
    projection : Projection, default=None
        What the term "preservation" preserves.

    Attributes
    ----------
    n_steps : int
        Number of batches so far.
    """

    def __init__(self, network, loss_weights, label_smoothing, weight_decay, batch_size, generator, projection=None):
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
        self._weight_decay = weight_decay
        self.n_steps = 0

        n_products = len(self._values) * batch_size
        n_shards = 2 if n_products >= _WORTH_SPLITTING and batch_size > 1 else 1
        self._large = n_products >= n_shards * _WORTH_THREADS
        self._gradients = [torch.empty_like(self._values) for _ in range(n_shards)]
        self._shards = [
            Shard(network, views, self._views(gradient), loss_weights, label_smoothing, generator, projection)
            for gradient in self._gradients
        ]
        self._scale = self._values.new_tensor([1.0, 1.0, 0.5, 0.5, 1 / network.M, -1 / network.M])

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
        self._limit = max(1, n_threads // len(self._shards)) if self._large else 1
        self._worker = None
        with ExitStack() as stack:
            stack.enter_context(limited_threads(self._limit))
            stack.enter_context(torch.inference_mode())
            if len(self._shards) > 1 and n_threads > 1:
                self._worker = _Worker(self._limit)
                stack.callback(self._worker.stop)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_):
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
        data = X, y.index_select(0, batch), weight, batch
        n_shards = len(self._shards)
        cuts = [len(batch) * i // n_shards for i in range(n_shards + 1)]
        phases = (
            lambda i: self._shards[i].forward(*data, cuts[i], cuts[i + 1]),
            lambda i: self._shards[i].backward([shard.mean for shard in self._shards]),
            lambda i: self._update(i, learning_rate),
        )
        if self._worker is not None:
            self._worker.share(phases)
        else:
            for phase in phases:
                for i in range(n_shards):
                    phase(i)
        return sum(shard.terms for shard in self._shards) * self._scale

    def _update(self, i, learning_rate):
        """Add up the shards' gradients, and update by AdamW, in the i-th range of the parameters."""
        n, n_shards = len(self._values), len(self._shards)
        start, stop = n * i // n_shards, n * (i + 1) // n_shards
        gradient = self._gradients[0][start:stop]
        for other in self._gradients[1:]:
            gradient += other[start:stop]
        decayed = (start, min(stop, self._n_decayed), self._weight_decay)
        rest = (max(start, self._n_decayed), stop, 0.0)
        step = torch.tensor(float(self.n_steps))
        for first, last, weight_decay in (decayed, rest):
            if first < last:
                torch._fused_adamw_(
                    *([tensor[first:last]] for tensor in (self._values, self._gradients[0], *self._moments)),
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


class _Worker:
    """A thread that does the second share of each phase, while the caller does the first."""

    def __init__(self, limit):
        self._to, self._from = queue.SimpleQueue(), queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(limit,), daemon=True)
        self._thread.start()

    def share(self, phases):
        """Do all phases; none begins before both shares of the one before are done."""
        self._to.put(phases)
        try:
            for phase in phases:
                phase(0)
                self._to.put(phase)
                error = self._from.get()
                if error is not None:
                    raise error
        except BaseException:
            self.stop()  # nothing may go on where the caller, interrupted, does not expect it
            raise

    def stop(self):
        """End the thread, at the end of the phase that it is in."""
        self._to.put(None)
        self._thread.join()

    def _serve(self, limit):
        torch.get_num_threads()  # torch sets a thread's limit at its first call, which must not come after ours
        try:
            with limited_threads(limit), torch.inference_mode():
                while (phases := self._to.get()) is not None:
                    for phase in phases:
                        phase(1)
                        self._from.put(None)
                        if self._to.get() is None:
                            return
        except BaseException as error:
            self._from.put(error)
