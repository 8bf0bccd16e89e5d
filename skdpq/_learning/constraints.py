"""Constraints of the parameters of `BaseDPQ`: what each may be, which scikit-learn checks before a method runs."""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions

PARAMETER_CONSTRAINTS: dict = {
    "M": [Interval(Integral, 1, None, closed="left")],
    "K": [Interval(Integral, 2, 65536, closed="both")],
    "D": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
    "hidden_layer_sizes": ["array-like", StrOptions({"auto"})],
    "part_layer_sizes": ["array-like"],
    "trunk_input": [StrOptions({"auto", "features", "posterior"})],
    "backbone": [torch.nn.Module, None],
    "augment": [callable, None],
    "intra_norm": ["boolean"],
    "dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
    "label_smoothing": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
    "softmax_soft_weight": [Interval(Real, 0, None, closed="left")],
    "softmax_hard_weight": [Interval(Real, 0, None, closed="left")],
    "joint_central_weight": [Interval(Real, 0, None, closed="left")],
    "supervision": [Interval(Real, 0, 1, closed="both")],
    "gini_batch_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "gini_sample_weight": [Interval(Real, 0, None, closed="left")],
    "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "tol": [Interval(Real, 0, None, closed="left")],
    "early_stopping": ["boolean", StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "class_weight": [dict, StrOptions({"balanced"}), None],
    "warm_start": ["boolean"],
    "output": [StrOptions({"soft", "hard", "codes"})],
    "random_state": ["random_state"],
    "device": [str, torch.device],
    "verbose": ["verbose"],
}
