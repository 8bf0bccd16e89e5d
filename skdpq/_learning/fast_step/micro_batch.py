"""The objective and its gradients, written out for a share of a batch on the CPU, and recorded (`_tape`).

Soft and hard send their gradients to p_m in one product; they lie side by side, so that the classifier is one product
for both; class centers and gathered codewords get their gradients by scatter.
"""

import math
from types import SimpleNamespace

import torch

from ..losses import TERMS
from ..network import split_parts
from .recording import Tape, record_codes, record_logits

aten = torch.ops.aten


class Shard:
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
        codes = record_codes(first, s[-1])
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
