"""What the paper compares with, as quantizers that `DPQNeighbors` takes, and LSQ, which has no product codebooks."""

import copy

import faiss
import numpy as np
import torch
from images import DEVICE
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy

from skdpq._learning.network import DPQNetwork, concatenate_parts


class Codebooks(BaseEstimator):
    """Decodes by `codebooks_` (M, K, D)."""

    def decode(self, codes):
        """Return the codewords of codes (n, M), concatenated."""
        return self.codebooks_[np.arange(len(self.codebooks_)), codes].reshape(len(codes), -1)


class ITQ(Codebooks):
    """Iterative quantization (Gong & Lazebnik, 2011), by faiss: signs of rotated principal components.

    Each bit is a part of two codewords, -1 and 1, so that symmetric distances are four times Hamming's, and asymmetric
    ones compare the query's components to the signs.
    """

    def __init__(self, n_bits, seed=0):
        self.n_bits = n_bits
        self.seed = seed

    def fit(self, X, y=None):
        """Learn the components."""
        self.transform_ = faiss.ITQTransform(X.shape[1], self.n_bits, True)
        self.transform_.itq.seed = self.seed
        self.transform_.train(X)
        self.codebooks_ = np.tile(np.array([[-1], [1]], dtype=np.float32), (self.n_bits, 1, 1))
        self.is_fitted_ = True
        return self

    def soft(self, X):
        """Return the rotated components."""
        return self.transform_.apply(np.ascontiguousarray(X))

    def encode(self, X):
        """Return their signs."""
        return (self.soft(X) > 0).astype(np.uint8)


class LabelCodes(Codebooks):
    """Sablayrolles et al. (2017): an item's code is the class that a classifier predicts; a query has probabilities."""

    def fit(self, X, y):
        """Learn the classifier."""
        self.classifier_ = LogisticRegression(C=0.01, max_iter=300).fit(X, y)
        self.codebooks_ = np.eye(len(self.classifier_.classes_), dtype=np.float32)[None]
        return self

    def soft(self, X):
        """Return the probabilities of the classes."""
        return self.classifier_.predict_proba(X).astype(np.float32)

    def encode(self, X):
        """Return the most probable class."""
        return self.soft(X).argmax(1)[:, None].astype(np.uint8)


class SUBIC(Codebooks):
    """SUBIC (Jain et al., 2017) on the network of DPQ: its codewords are one-hot, so soft is p.

    Entropies take the place of the Gini terms, and there is neither hard nor a center in training. First its own layers
    learn, and then, if there is a backbone, all do, as `own` and `joint` say: each a dict of `max_iter`, epochs, and
    `learning_rate`, which falls to zero over the second half of them. Without a backbone, features are standardised,
    unless they are units of a base network.
    """

    def __init__(
        self,
        M,
        K,
        backbone=None,
        *,
        part_layer_sizes=(128,),
        hidden_layer_sizes=(),
        own=None,
        joint=None,
        batch_size=250,
        weight_decay=0.2,
        label_smoothing=0.02,
        dropout=0.4,
        sample_entropy=0.03,
        batch_entropy=0.1,
        standardize=True,
        seed=0,
    ):
        self.M = M
        self.K = K
        self.backbone = backbone
        self.part_layer_sizes = part_layer_sizes
        self.hidden_layer_sizes = hidden_layer_sizes
        self.own = own
        self.joint = joint
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.sample_entropy = sample_entropy
        self.batch_entropy = batch_entropy
        self.standardize = standardize
        self.seed = seed

    def fit(self, X, y):
        """Learn the network."""
        torch.manual_seed(self.seed)
        self.scaler_ = StandardScaler().fit(X) if self.backbone is None and self.standardize else None
        X, y = self._to_tensor(X), torch.from_numpy(y).to(DEVICE)
        backbone = None if self.backbone is None else copy.deepcopy(self.backbone).to(DEVICE)
        units = X if backbone is None else self._units(backbone.eval(), X)
        self.network_ = network = DPQNetwork(
            units.shape[1],
            int(y.max()) + 1,
            M=self.M,
            K=self.K,
            D=self.K,
            hidden_layer_sizes=self.hidden_layer_sizes,
            part_layer_sizes=self.part_layer_sizes,
            dropout=self.dropout,
        )
        network.initialize(torch.Generator().manual_seed(self.seed))
        network.to(DEVICE)
        self.codebooks_ = np.tile(np.eye(self.K, dtype=np.float32), (self.M, 1, 1))
        self._train(units, y, **self.own)
        if backbone is not None:
            network.backbone = backbone.requires_grad_(True)
            self._train(X, y, **self.joint)
        network.eval()
        return self

    @torch.no_grad()
    def _units(self, backbone, X):
        return torch.cat([backbone(x) for x in X.split(1000)])

    def _to_tensor(self, X):
        return torch.from_numpy(X if self.scaler_ is None else self.scaler_.transform(X)).to(DEVICE)

    def _train(self, X, y, max_iter, learning_rate):
        network = self.network_.train()
        fixed = ("codebooks", "class_centers")  # the former are one-hot, and of the latter there are none
        learned = [p for name, p in network.named_parameters() if p.requires_grad and name not in fixed]
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        n_batches = -(-len(X) // self.batch_size)
        step, n_steps = 0, max_iter * n_batches
        for _ in range(max_iter):
            for batch in torch.randperm(len(X)).tensor_split(n_batches):
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min(1, 20 * step / n_steps, 2 * (1 - (step - 1) / n_steps))
                p = torch.softmax(network.logits(X[batch].float()), dim=-1)
                logits = network.classifier(concatenate_parts(p))
                loss = cross_entropy(logits, y[batch], label_smoothing=self.label_smoothing)
                loss = loss + self.sample_entropy * entropy(p).mean() - self.batch_entropy * entropy(p.mean(1)).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    @torch.inference_mode()
    def soft(self, X):
        """Return p, concatenated."""
        blocks = [torch.softmax(self.network_.logits(x.float()), dim=-1) for x in self._to_tensor(X).split(1000)]
        return torch.cat([concatenate_parts(p) for p in blocks]).cpu().numpy()

    def encode(self, X):
        """Return the most probable entry of each part."""
        return self.soft(X).reshape(len(X), self.M, self.K).argmax(2).astype(np.uint8)

    @torch.inference_mode()
    def decision_function(self, X):
        """Return what the classifier makes of codes, (n, n_classes)."""
        hard = torch.from_numpy(self.decode(self.encode(X))).to(DEVICE)
        return self.network_.classifier(hard).cpu().numpy()


def entropy(p):
    """Return the entropies of the distributions in the last axis, relative to the uniform one's."""
    return -(p * (p + 1e-12).log()).sum(-1) / np.log(p.shape[-1])


def lsq(X_train, samples, M, n_bits, *, n_train=20_000, seed=0):
    """Return what LSQ (Martinez et al., 2018) of faiss decodes, for each array of samples."""
    quantizer = faiss.LocalSearchQuantizer(X_train.shape[1], M, n_bits)
    quantizer.random_seed = seed
    rng = np.random.default_rng(seed)
    quantizer.train(np.ascontiguousarray(X_train[rng.permutation(len(X_train))[:n_train]]))
    return [quantizer.decode(quantizer.compute_codes(np.ascontiguousarray(X))) for X in samples]
