"""The micro-batch of the fast step: the objective and its gradients, written out, in buffers that are kept.

`FastStep` calls it, on the CPU and without autograd. Soft and hard send their gradients to p_m in one product. They are
stacked in one buffer, soft above hard, so that the classifier is one product for both. Class centers and gathered
codewords get their gradients by scatter.
"""

import math

import torch

from ..losses import TERMS
from ..network import Activations, layers, most_probable, split_parts

aten = torch.ops.aten


class MicroBatch:
    """A share of each batch.

    Parameters
    ----------
    parameters, gradients : dict of str to Tensor
        By their names in `DPQNetwork`; gradients, of all but a `Nearness`, are written at each batch.
    objective : Objective
        What is minimized.
    dropout : float
        Share of the units that are set to zero.
    generator : torch.Generator
        Seeds the dropout.

    Attributes
    ----------
    mean : Tensor of shape (M, 1, K)
        Weighted sum of p over the micro-batch; after `forward`.
    terms : Tensor of shape (6,)
        What the micro-batch adds to each term of the objective, before `FastStep` scales them; after `backward`.
    """

    def __init__(self, parameters, gradients, objective, dropout, generator):
        self._parameters, self._gradients = parameters, gradients
        self._weights, self._smoothing, self._projection, self._distilled = objective
        of_labels = 1.0, 1.0, 1.0, None
        _, self._soft_factor, self._hard_factor, center_scale = self._distilled or of_labels
        self._fixes_centers = center_scale is not None
        self._dropped = min(round(2**16 * dropout), 2**16 - 1)  # of 2**16 units
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        self._generator = torch.Generator().manual_seed(seed)
        codebooks = parameters["codebooks"]
        # len of a tensor takes as long as a short call
        self._M, self._C = len(codebooks), len(parameters["class_centers"])
        self._codewords = codebooks.view(-1, codebooks.shape[2])
        self._grad_codewords = gradients["codebooks"].view_as(self._codewords)
        self._transposed_codebooks = codebooks.transpose(1, 2)
        self._transposed_parts = [weight.transpose(1, 2) for weight, _ in layers(parameters, "parts")]
        if "classifier.bias" in parameters:
            self._bias_column = parameters["classifier.bias"][:, None]
        self._buffers_by_size = {}  # of which there are two or three

    def forward(self, X, y, weight, batch):
        """Compute what does not need the other micro-batches.

        Parameters
        ----------
        X : Tensor of shape (n, n_units)
            Samples.
        y, weight, batch : Tensor of shape (B,)
            Class indices and weights of the micro-batch, and its rows of X. The weights of the batch sum to one.
        """
        B = batch.shape[0]
        if B not in self._buffers_by_size:
            self._buffers_by_size[B] = _Buffers(self._parameters, X.shape[1], B)
        self._buffers = buf = self._buffers_by_size[B]
        self.mean, self.terms = buf.mean, buf.terms
        torch.index_select(X, 0, batch, out=buf.x)
        buf.y.copy_(y)
        buf.weight.copy_(weight)
        # Targets are of the sample before dropout. What is preserved is what codewords are near to.
        buf.activations.aim()
        if self._projection is not None and buf.activations.near is not None:
            buf.activations.near.copy_target(buf.target)
        elif self._projection is not None:
            self._projection(buf.x, buf.scaled, buf.target)
        if self._distilled is not None:
            buf.roots.copy_(buf.x)
            self._distilled.shares(buf.roots, out=buf.shares)
        if self._dropped:
            self._apply_dropout(buf)
        self._quantize(buf)
        if "classifier.weight" in self._parameters:
            self._classify(buf)
        else:
            buf.grad.zero_()
        if self._projection is not None:
            self._half_squared_distance(buf, buf.target, "preservation", buf.grad_target, buf.grad_target_flat)
            buf.grad.add_(buf.grad_target, alpha=self._weights["preservation"])
        self._codebook_gradients(buf)

    def backward(self, means):
        """Compute the rest, given each micro-batch's `mean`: GiniBatch (equation 6), and all layers."""
        buf = self._buffers
        torch.add(*means, out=buf.total) if len(means) > 1 else buf.total.copy_(means[0])
        buf.grad_p.addcmul_(buf.weight_column, buf.total, value=2 * self._weights["gini_batch"] / self._M)
        torch.dot(buf.mean_flat, buf.total_flat, out=buf.term["gini_batch"])
        aten._softmax_backward_data.out(buf.grad_p, buf.p, -1, buf.p.dtype, grad_input=buf.grad_p)
        grad = self._part_gradients(buf)
        self._nearness_gradient(buf)
        if len(buf.activations.units) > 1:
            self._trunk_gradients(buf, grad)

    def _apply_dropout(self, buf):
        """Set units to zero: 16 random bits decide on each, at a tenth of the cost of bernoulli_."""
        buf.bits.random_(-(2**63), None, generator=self._generator)
        torch.ge(buf.bits_of_units, self._dropped - 2**15, out=buf.kept)
        torch.mul(buf.x, buf.kept, out=buf.x)
        buf.x.mul_(2**16 / (2**16 - self._dropped))

    def _quantize(self, buf):
        """Compute p, codes, soft (equation 1) and hard (equation 2)."""
        logits = buf.activations.fill()
        torch.softmax(logits, -1, out=buf.p)
        most_probable(logits, out=buf.codes)
        torch.add(buf.transposed_codes, buf.first_rows, out=buf.rows)
        torch.bmm(buf.p, self._parameters["codebooks"], out=buf.soft_parts)
        torch.index_select(self._codewords, 0, buf.rows_flat, out=buf.hard_rows)

    def _classify(self, buf):
        """Compute both softmax losses and Joint Central Loss, and the gradient of soft and hard."""
        weight = self._parameters["classifier.weight"]
        # Classes come first, as products are faster with few rows than with few columns.
        torch.addmm(self._bias_column, weight, buf.transposed_stacked, out=buf.logits)
        torch.log_softmax(buf.logits, 0, out=buf.log_p)
        # The targets times -weight: one-hot labels, or the posterior; smoothed.
        torch.neg(buf.weight_row, out=buf.negative_weight)
        if self._distilled is not None:
            torch.mul(buf.transposed_roots, buf.transposed_roots, out=buf.posterior)
            torch.mul(buf.posterior_of_half, buf.negative_weight_halves, out=buf.labels_halves)
        else:
            buf.labels.zero_()
            buf.labels.scatter_(0, buf.y_row, buf.negative_weight)
        if self._smoothing:
            buf.labels.mul_(1 - self._smoothing)
            torch.add(buf.labels, buf.negative_weight, alpha=self._smoothing / self._C, out=buf.labels)
        # Both losses; buf.logits is free by now.
        torch.mul(buf.labels, buf.log_p, out=buf.logits)
        torch.sum(buf.logits, 0, out=buf.cross_entropy)
        torch.sum(buf.cross_entropy_halves, 1, out=buf.softmax_terms)
        # The gradient of the logits is weight * (softmax - label).
        grad_logits = buf.logits
        aten._log_softmax_backward_data.out(buf.labels, buf.log_p, 0, buf.log_p.dtype, out=grad_logits)
        if self._hard_factor != 1:
            buf.term["softmax_hard"].mul_(self._hard_factor)
        factors = self._weights["softmax_soft"], self._hard_factor * self._weights["softmax_hard"]
        for half, factor in zip(buf.logits_halves, factors, strict=True):
            if factor != 1:
                half.mul_(factor)
        torch.mm(grad_logits, buf.stacked, out=self._gradients["classifier.weight"])
        torch.sum(grad_logits, 1, out=self._gradients["classifier.bias"])
        self._center(buf)
        torch.addmm(buf.grad, buf.transposed_logits, weight, beta=self._weights["joint_central"], out=buf.grad)

    def _center(self, buf):
        """Compute Joint Central Loss, the gradient of the class centers, and of soft and hard without its weight."""
        centers, gradient = self._parameters["class_centers"], self._gradients["class_centers"]
        if self._distilled is None:
            torch.index_select(centers, 0, buf.y_of_half, out=buf.centers)
        else:
            torch.mm(buf.shares, centers, out=buf.centers)
        self._half_squared_distance(buf, buf.centers, "joint_central", buf.grad, buf.grad_flat, self._soft_factor)
        if self._fixes_centers:
            gradient.zero_()
        elif self._distilled is not None:
            torch.add(buf.grad_soft, buf.grad_hard, out=buf.centers)  # which is free by now
            torch.mm(buf.transposed_shares, buf.centers, out=gradient).mul_(-self._weights["joint_central"])
        else:
            gradient.zero_().index_add_(0, buf.y_flat, buf.grad, alpha=-self._weights["joint_central"])

    def _half_squared_distance(self, buf, centers, term, grad, grad_flat, soft_factor=1.0):
        """Compute equation 5 for centers o (B, M * D), and its gradient: weight * (soft - o), without the term's.

        Soft counts `soft_factor` times.
        """
        torch.sub(buf.stacked_halves, centers, out=buf.difference_halves)
        torch.mul(buf.difference, buf.weight_column_of_stacked, out=grad)
        if soft_factor != 1:
            grad[: grad.shape[0] // 2].mul_(soft_factor)
        torch.dot(buf.difference_flat, grad_flat, out=buf.term[term])

    def _codebook_gradients(self, buf):
        """Compute the codebooks' gradients from those of soft and hard, and p's but for GiniBatch."""
        torch.bmm(buf.transposed_p, buf.grad_soft_parts, out=self._gradients["codebooks"])
        self._grad_codewords.index_add_(0, buf.rows_flat, buf.grad_hard_rows)
        # Straight through: p receives the gradient of hard as if it were the one-hot vector.
        buf.grad_soft.add_(buf.grad_hard)
        # GiniSample (equation 7) has the gradient -2 weight * p, which its weight multiplies.
        torch.mul(buf.p, buf.weight_column, out=buf.grad_p)
        torch.dot(buf.p_flat, buf.grad_p_flat, out=buf.term["gini_sample"])
        beta = -2 * self._weights["gini_sample"] / self._M
        torch.baddbmm(buf.grad_p, buf.grad_soft_parts, self._transposed_codebooks, beta=beta, out=buf.grad_p)
        torch.bmm(buf.weight_of_parts, buf.p, out=buf.mean)

    def _part_gradients(self, buf):
        """Compute the gradients of the part networks; return that of the output of their first layer."""
        s, grad = buf.activations.s, buf.grad_p
        for i in reversed(range(len(s) - 1)):
            torch.bmm(buf.transposed_s[i], grad, out=self._gradients[f"parts.{i}.weight"])
            torch.sum(grad, 1, keepdim=True, out=self._gradients[f"parts.{i}.bias"])
            if i:
                torch.bmm(grad, self._transposed_parts[i], out=buf.grad_s[i])
                grad = _through_relu(buf.grad_s[i], s[i])
        return grad

    def _nearness_gradient(self, buf):
        """Add what the codebooks' gradient gains by the logits', whose sums are the gradient of the last bias."""
        if buf.activations.near is not None:
            sums = self._gradients[f"parts.{len(self._transposed_parts) - 1}.bias"]
            buf.activations.near.add_gradient(self._gradients["codebooks"], buf.grad_p, sums)

    def _trunk_gradients(self, buf, grad):
        """Compute the gradients of the trunk, given that of the output of the part networks' first layer."""
        units = buf.activations.units
        torch.bmm(grad, self._transposed_parts[0], out=buf.grad_sub_vectors)
        grad = buf.grad_units[-1]
        if grad.shape[1] < self._M:  # with fewer units than parts, each part reads all of them
            torch.sum(buf.grad_sub_vectors, 0, out=grad)
        for i in reversed(range(len(units) - 1)):
            _through_relu(grad, units[i + 1])
            torch.mm(buf.transposed_grad_units[i + 1], units[i], out=self._gradients[f"trunk.{i}.weight"])
            torch.sum(grad, 0, out=self._gradients[f"trunk.{i}.bias"])
            if i:
                torch.mm(grad, self._parameters[f"trunk.{i}.weight"], out=buf.grad_units[i])
                grad = buf.grad_units[i]


def _through_relu(grad, output):
    """Pass a gradient through a ReLU, in place."""
    return aten.threshold_backward.grad_input(grad, output, 0, grad_input=grad)


class _Buffers:
    """Memory for a micro-batch of B samples, and views of it, which take as long to make as some calls do."""

    def __init__(self, parameters, n_units, B):
        codebooks = parameters["codebooks"]
        self.activations = Activations(parameters, B)
        self.terms = codebooks.new_zeros(len(TERMS))
        self.term = dict(zip(TERMS, self.terms.unbind(), strict=True))
        self.softmax_terms = self.terms[:2]
        self._make_inputs(codebooks, n_units, B)
        self._make_parts(codebooks, B)
        self._make_classes(codebooks, len(parameters["class_centers"]), B)
        self._make_layers(parameters)

    def _make_inputs(self, codebooks, n_units, B):
        M, _, D = codebooks.shape
        self.x, self.scaled = codebooks.new_empty(2, B, n_units)
        self.target = codebooks.new_empty(B, M * D)
        (self.roots, self.shares), self.posterior = codebooks.new_empty(2, B, n_units), codebooks.new_empty(n_units, B)
        self.transposed_roots, self.transposed_shares = self.roots.T, self.shares.T
        self.posterior_of_half = self.posterior[:, None]
        self.activations.place(self.x)
        self.y, self.weight = torch.empty(2, B, dtype=torch.int64), codebooks.new_empty(2, B)  # for soft and for hard
        self.y_of_half, self.y_flat, self.y_row = self.y[0], self.y.view(-1), self.y.view(1, -1)
        self.weight_row = self.weight.view(1, -1)
        self.weight_column, self.weight_column_of_stacked = self.weight[0][:, None], self.weight.view(-1, 1)
        self.weight_of_parts = self.weight[0].expand(M, 1, B)
        self.bits = torch.empty(math.ceil(B * n_units / 4), dtype=torch.int64)
        self.bits_of_units = self.bits.view(torch.int16)[: B * n_units].view(B, n_units)
        self.kept = torch.empty(B, n_units, dtype=torch.bool)

    def _make_parts(self, codebooks, B):
        (M, K, D), new = codebooks.shape, codebooks.new_empty
        self.p, self.mean, self.total = new(M, B, K), new(M, 1, K), new(M, 1, K)
        self.grad_p = self.activations.s[-1]  # in place of the logits
        self.transposed_p, self.p_flat, self.grad_p_flat = self.p.transpose(1, 2), self.p.view(-1), self.grad_p.view(-1)
        self.mean_flat, self.total_flat = self.mean.view(-1), self.total.view(-1)
        self.codes = torch.empty(M, B, 1, dtype=torch.int64)
        self.transposed_codes = self.codes[:, :, 0].T
        self.rows, self.first_rows = torch.empty(B, M, dtype=torch.int64), K * torch.arange(M)
        self.rows_flat = self.rows.view(-1)
        self.stacked, self.grad, self.grad_target, self.difference = (new(2 * B, M * D) for _ in range(4))
        self.stacked_halves, self.difference_halves = (a.view(2, B, M * D) for a in (self.stacked, self.difference))
        self.transposed_stacked, self.difference_flat = self.stacked.T, self.difference.view(-1)
        self.soft_parts, self.hard_rows = split_parts(self.stacked[:B], M, D), self.stacked[B:].view(-1, D)
        self.grad_flat, self.grad_target_flat = self.grad.view(-1), self.grad_target.view(-1)
        self.grad_soft, self.grad_hard = self.grad[:B], self.grad[B:]
        self.grad_soft_parts, self.grad_hard_rows = split_parts(self.grad_soft, M, D), self.grad_hard.view(-1, D)

    def _make_classes(self, codebooks, C, B):
        (M, _, D), new = codebooks.shape, codebooks.new_empty
        self.logits, self.log_p, self.labels = new(C, 2 * B), new(C, 2 * B), new(C, 2 * B)
        self.logits_halves, self.transposed_logits = (self.logits[:, :B], self.logits[:, B:]), self.logits.T
        self.negative_weight, self.cross_entropy, self.centers = new(1, 2 * B), new(2 * B), new(B, M * D)
        self.cross_entropy_halves = self.cross_entropy.view(2, B)
        self.labels_halves = self.labels.view(C, 2, B)
        self.negative_weight_halves = self.negative_weight.view(1, 2, B)

    def _make_layers(self, parameters):
        units, s = self.activations.units, self.activations.s
        M, N, _ = parameters["parts.0.weight"].shape
        self.transposed_s = [a.transpose(1, 2) for a in s]
        self.grad_s = [None, *(torch.empty_like(a) for a in s[1:-1])]
        self.grad_units = [None, *(torch.zeros_like(a) for a in units[1:])]  # zero for units that no part reads
        self.transposed_grad_units = [None, *(a.T for a in self.grad_units[1:])]
        if len(units) > 1:
            last = self.grad_units[-1]
            self.grad_sub_vectors = split_parts(last, M, N) if last.shape[1] >= M else last.new_empty(M, *last.shape)
