"""The terms of the DPQ objective (section 3, loss functions and regularization), one function each.

`step.Objective` adds them up; `fast_step` has their gradients written out. Every term is a mean over the batch,
weighted by `weight`: (B,) and summing to one, 1/B each without sample weights. Both Gini terms are also means over the
M parts, so that their weights mean the same for any M.
"""

from torch import nn

SUPERVISED = ("softmax_soft", "softmax_hard", "joint_central")
TERMS = (*SUPERVISED, "preservation", "gini_batch", "gini_sample")  # of the objective


def softmax_loss(logits, y, weight, smoothing=0.0):
    """Softmax (cross-entropy) loss of the shared classifier, on soft or on hard.

    Parameters
    ----------
    logits : Tensor of shape (B, C)
        Prediction scores before the softmax.
    y : Tensor of shape (B,), int64, or (B, C)
        Class indices, or probabilities of the classes.
    weight : Tensor of shape (B,)
        Sample weights that sum to one.
    smoothing : float, default=0.0
        Share of the target that is spread evenly over all classes.

    Returns
    -------
    loss : Tensor of shape ()
        Weighted mean over the batch.
    """
    return nn.functional.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing) @ weight


def joint_central_loss(soft, hard, centers, weight, soft_factor=1.0):
    """Joint Central Loss: equation 5 on soft and on hard, with the same class centers.

    Half the squared distance, summed over the M * D dimensions (not averaged: published re-implementations differ
    here, and their weights cannot be compared).

    Parameters
    ----------
    soft, hard : Tensor of shape (B, M * D)
        The two representations.
    centers : Tensor of shape (B, M * D)
        o_{y_i}, the center of every sample's class, or what takes its place (`step.Objective`); for the term
        "preservation" a projection of its own features.
    weight : Tensor of shape (B,)
        Sample weights that sum to one.
    soft_factor : float, default=1.0
        How often soft counts; once in the paper.

    Returns
    -------
    loss : Tensor of shape ()
        Weighted mean over the batch of 1/2 ||soft_i - o_{y_i}||^2, times the factor, + 1/2 ||hard_i - o_{y_i}||^2.
    """
    squared = soft_factor * (soft - centers).square().sum(1) + (hard - centers).square().sum(1)
    return 0.5 * (squared @ weight)


def gini_batch(p, weight):
    """GiniBatch (equation 6): low when a batch spreads evenly over the codewords of every part.

    Parameters
    ----------
    p : Tensor of shape (M, B, K)
        Distributions over the codewords.
    weight : Tensor of shape (B,)
        Sample weights that sum to one.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the parts, from 1/K (evenly spread) to 1 (one codeword takes all).
    """
    return (weight @ p).square().sum(1).mean()


def gini_sample(p, weight):
    """GiniSample (equation 7): low when every p_m is close to one-hot, and soft therefore close to hard.

    Parameters
    ----------
    p : Tensor of shape (M, B, K)
        Distributions over the codewords.
    weight : Tensor of shape (B,)
        Sample weights that sum to one.

    Returns
    -------
    loss : Tensor of shape ()
        Weighted mean over the batch and mean over the parts, from -1 (one-hot) to -1/K (uniform).
    """
    return -(p.square().sum(2) @ weight).mean()
