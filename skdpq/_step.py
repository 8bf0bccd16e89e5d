"""A training step on the CPU with its gradients written out; the same as `training.AutogradStep`, to rounding.

Soft and hard send their gradients to p_m in one product; they lie side by side, so that the classifier is one product
for both; class centers and gathered codewords get their gradients by scatter; all calls are recorded (`_tape`).

A batch is split into shards, each with a thread, which meet where GiniBatch needs the whole batch and where gradients
are added up. A thread that waits sleeps; threads within a product spin, which on a busy machine takes longer than the
product. How a batch is split depends on its size and the network alone, and shards are added in one order: so the
number of threads does not change a bit of the result.
"""

import math
import queue
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import torch

from ._environment import limited_threads
from ._tape import Tape, record_codes, record_logits
from .losses import TERMS
from .network import split_parts

_WORTH_SPLITTING = 2**22  # multiply-adds of a forward pass; for fewer, meeting takes longer than the work that is saved
_WORTH_THREADS = 2**27  # the same of a shard, for its products to be shared out too
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # of AdamW; torch's defaults

aten = torch.ops.aten


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
            _Shard(network, views, self._views(gradient), loss_weights, label_smoothing, generator, projection)
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


class _Shard:
    """A part of each batch: its buffers, and its gradients.

    Calls are recorded once for each size of the part, of which there are two or three.
    """

    def __init__(self, network, parameters, gradients, loss_weights, label_smoothing, generator, projection):
        self._network, self._projection = network, projection
        self._parameters, self._gradients = parameters, gradients
        self._weights, self._smoothing = loss_weights, label_smoothing
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        self._generator = torch.Generator().manual_seed(seed)
        self._recorded = {}

    def forward(self, X, y, weight, batch, start, stop):
        """Do what does not need the other shards.

        Parameters
        ----------
        X : Tensor of shape (n, n_units)
            Samples.
        y, weight, batch : Tensor of shape (B,)
            Class indices and weights of the batch, which sum to one, and its rows of X.
        start, stop : int
            The shard's range of them.
        """
        if stop - start not in self._recorded:
            self._recorded[stop - start] = self._record(stop - start)
        now = self._now = self._recorded[stop - start]
        now.y.copy_(y[start:stop])
        now.weight.copy_(weight[start:stop])
        torch.index_select(X, 0, batch[start:stop], out=now.x)
        now.forward.run()

    def backward(self, means):
        """Do the rest, with the mean of p over each shard, weighted."""
        torch.add(*means, out=self._now.total) if len(means) > 1 else self._now.total.copy_(means[0])
        self._now.backward.run()

    @property
    def mean(self):
        """Sum of p over the shard, weighted: (M, 1, K)."""
        return self._now.mean

    @property
    def terms(self):
        """What the shard adds to each term of the objective, up to a factor."""
        return self._now.terms

    def _record(self, B):
        """Record both halves of the step for a shard of B samples."""
        codebooks = self._parameters["codebooks"]
        M, K, D = codebooks.shape
        now = SimpleNamespace()
        first = now.forward = Tape(codebooks.dtype)
        x = now.x = first.new(B, self._network.n_units)
        # twice each, for soft and for hard
        now.y, now.weight = torch.empty(2, B, dtype=torch.int64), first.new(2, B)
        now.terms = torch.zeros(len(TERMS), dtype=codebooks.dtype)
        target = self._record_target(first, x)
        if self._network.dropout:
            self._record_dropout(first, x)
        units, s = record_logits(first, self._parameters, x, M, self._network.N)
        p = first.new(M, B, K)
        first(torch.softmax, s[-1], -1, out=p)
        codes = record_codes(first, p)
        rows = torch.empty(B, M, dtype=torch.int64)
        first(torch.add, codes.T, K * torch.arange(M), out=rows)
        both = first.new(2 * B, M * D)  # soft, and below it hard
        first(torch.bmm, p, codebooks, out=split_parts(both[:B], M, D))  # eq. 1
        first(torch.index_select, codebooks.view(-1, D), 0, rows.view(-1), out=both[B:].view(-1, D))  # eq. 2
        grad = self._record_supervised(first, now, both)
        if target is not None:
            difference = self._record_difference(first, now, both, target, "preservation")
            first(grad.add_, difference, alpha=self._weights["preservation"])
        grad_p = self._record_codebooks(first, now, p, rows, grad)

        # GiniBatch (eq. 6) needs the mean of p over all shards. Then down to the first layer.
        then = now.backward = Tape(codebooks.dtype)
        then(grad_p.addcmul_, now.weight[0][:, None], now.total, value=2 * self._weights["gini_batch"] / M)
        then(torch.dot, now.mean.view(-1), now.total.view(-1), out=now.terms[TERMS.index("gini_batch")])
        then(aten._softmax_backward_data.out, grad_p, p, -1, p.dtype, grad_input=grad_p)
        self._record_layers(then, units, s, grad_p)
        return now

    def _record_target(self, tape, x):
        """Record what is to be preserved of x; return the buffer for it, None without."""
        if self._projection is None:
            return None
        weight, bias = self._projection.weight, self._projection.bias
        target = tape.new(len(x), len(bias))
        tape(torch.addmm, bias, x, weight, out=target)
        return target

    def _record_supervised(self, tape, now, both):
        """Record both softmax losses and Joint Central Loss (eq. 5); return the buffer for the gradient of `both`."""
        if self._network.classifier is None:
            grad = tape.new(*both.shape)
            tape(grad.zero_)
            return grad
        parameters, gradients = self._parameters, self._gradients
        classifier, y, weight = parameters["classifier.weight"], now.y.view(-1), now.weight.view(1, -1)
        B, C = len(both) // 2, len(classifier)
        # The gradient of a logit is weight * (softmax - target). Classes come first, as products are faster with few
        # rows than with few columns.
        logits, log_p, target = (tape.new(C, 2 * B) for _ in range(3))
        negative, cross_entropy = tape.new(1, 2 * B), tape.new(2 * B)
        tape(torch.addmm, parameters["classifier.bias"][:, None], classifier, both.T, out=logits)
        tape(torch.log_softmax, logits, 0, out=log_p)
        tape(torch.neg, weight, out=negative)
        tape(target.zero_)
        tape(target.scatter_, 0, y[None], negative)  # the target, times -weight
        if self._smoothing:
            tape(target.mul_, 1 - self._smoothing)
            tape(torch.add, target, negative, alpha=self._smoothing / C, out=target)
        tape(torch.mul, target, log_p, out=logits)
        tape(torch.sum, logits, 0, out=cross_entropy)
        tape(torch.sum, cross_entropy.view(2, B), 1, out=now.terms[:2])
        grad_logits = logits
        tape(aten._log_softmax_backward_data.out, target, log_p, 0, log_p.dtype, out=grad_logits)
        for columns, name in ((slice(B), "softmax_soft"), (slice(B, None), "softmax_hard")):
            if self._weights[name] != 1:
                tape(grad_logits[:, columns].mul_, self._weights[name])
        tape(torch.mm, grad_logits, both, out=gradients["classifier.weight"])
        tape(torch.sum, grad_logits, 1, out=gradients["classifier.bias"])

        centers = tape.new(B, both.shape[1])
        tape(torch.index_select, parameters["class_centers"], 0, now.y[0], out=centers)
        grad = self._record_difference(tape, now, both, centers, "joint_central")
        tape(gradients["class_centers"].zero_)
        tape(gradients["class_centers"].index_add_, 0, y, grad, alpha=-self._weights["joint_central"])
        tape(torch.addmm, grad, grad_logits.T, classifier, beta=self._weights["joint_central"], out=grad)
        return grad

    def _record_difference(self, tape, now, both, centers, term):
        """Record equation 5 for centers (B, M * D), as a term; return the buffer for its gradient, weight * (soft - o).

        The weight of the term is left to the caller.
        """
        difference, grad = tape.new(*both.shape), tape.new(*both.shape)
        tape(torch.sub, both.view(2, *centers.shape), centers, out=difference.view(2, *centers.shape))
        tape(torch.mul, difference, now.weight.view(-1, 1), out=grad)
        tape(torch.dot, difference.view(-1), grad.view(-1), out=now.terms[TERMS.index(term)])
        return grad

    def _record_codebooks(self, tape, now, p, rows, grad):
        """Record what leads from soft and hard to the codebooks and, straight through, to p; return p's gradient."""
        codebooks, gradient = self._parameters["codebooks"], self._gradients["codebooks"]
        M, K, D = codebooks.shape
        B = p.shape[1]
        grad_soft, grad_hard = grad[:B], grad[B:]
        tape(torch.bmm, p.transpose(1, 2), split_parts(grad_soft, M, D), out=gradient)
        tape(gradient.view(-1, D).index_add_, 0, rows.view(-1), grad_hard.view(-1, D))
        tape(grad_soft.add_, grad_hard)
        # GiniSample (eq. 7) has the gradient -2 weight * p, which its weight will multiply.
        grad_p, weight = tape.new(M, B, K), now.weight[0]
        tape(torch.mul, p, weight[:, None], out=grad_p)
        tape(torch.dot, p.view(-1), grad_p.view(-1), out=now.terms[TERMS.index("gini_sample")])
        tape(
            torch.baddbmm,
            grad_p,
            split_parts(grad_soft, M, D),
            codebooks.transpose(1, 2),
            beta=-2 * self._weights["gini_sample"] / M,
            out=grad_p,
        )
        now.mean, now.total = tape.new(M, 1, K), tape.new(M, 1, K)
        tape(torch.bmm, weight.expand(M, 1, B), p, out=now.mean)
        return grad_p

    def _record_dropout(self, tape, x):
        """Record what drops features of x (B, n_units): 16 random bits decide on each, a tenth of bernoulli_'s cost."""
        dropped = min(round(2**16 * self._network.dropout), 2**16 - 1)
        bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64)
        kept = torch.empty(x.shape, dtype=torch.bool)
        tape(bits.random_, -(2**63), None, generator=self._generator)
        tape(torch.ge, bits.view(torch.int16)[: x.numel()].view(x.shape), dropped - 2**15, out=kept)
        tape(torch.mul, x, kept, out=x)
        tape(x.mul_, 2**16 / (2**16 - dropped))

    def _record_layers(self, tape, units, s, grad):
        """Record the gradients of part networks and trunk, given that of the logits (M, B, K)."""
        parameters, gradients = self._parameters, self._gradients
        for i in reversed(range(len(s) - 1)):
            tape(torch.bmm, s[i].transpose(1, 2), grad, out=gradients[f"parts.{i}.weight"])
            tape(torch.sum, grad, 1, keepdim=True, out=gradients[f"parts.{i}.bias"])
            weight = parameters[f"parts.{i}.weight"].transpose(1, 2)
            if i:
                below = tape.new(*s[i].shape)
                tape(torch.bmm, grad, weight, out=below)
                tape(aten.threshold_backward.grad_input, below, s[i], 0, grad_input=below)
                grad = below
        if len(units) == 1:
            return
        M, N = self._network.M, self._network.N
        below = torch.zeros_like(units[-1])  # units that no part reads have no gradient
        if below.shape[1] < M:
            each = tape.new(M, *below.shape)
            tape(torch.bmm, grad, weight, out=each)
            tape(torch.sum, each, 0, out=below)
        else:
            tape(torch.bmm, grad, weight, out=split_parts(below, M, N))
        grad = below
        for i in reversed(range(len(units) - 1)):
            tape(aten.threshold_backward.grad_input, grad, units[i + 1], 0, grad_input=grad)
            tape(torch.mm, grad.T, units[i], out=gradients[f"trunk.{i}.weight"])
            tape(torch.sum, grad, 0, out=gradients[f"trunk.{i}.bias"])
            if i:
                below = tape.new(*units[i].shape)
                tape(torch.mm, grad, parameters[f"trunk.{i}.weight"], out=below)
                grad = below
