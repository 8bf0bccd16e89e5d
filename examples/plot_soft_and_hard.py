"""
Soft and hard as training goes
==============================

A part of DPQ has K codewords, and a network chooses among them. Its *soft* representation averages all codewords by the
probabilities of the choice (equation 1 of the paper), its *hard* one is the most probable codeword (equation 2). Search
compares soft of a query with hard of the items, so the two must come close: GiniSample (equation 7) pulls the
probabilities to one codeword, and Joint Central Loss (equation 5) draws both to the center of the class.

One part whose codewords have two dimensions can be drawn as it is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skdpq import DPQTransformer

X, y = load_digits(n_class=6, return_X_y=True)
dpq = DPQTransformer(M=1, K=12, D=2, gini_sample_weight=0.3, random_state=0)

# %%
# `partial_fit` makes one pass over the data, so what is learned can be looked at in between.

passes = [1, 4, 12, 60]
states, done = [], 0
for until in passes:
    for _ in range(until - done):
        dpq.partial_fit(X, y, classes=np.unique(y))
    states.append((dpq.soft(X), dpq.codebooks_[0], dpq.encode(X)[:, 0]))
    done = until

# %%
# Dots are soft, colored by class, and stars are codewords, which is what hard can be; a grey line leads from a sample's
# soft to its hard. A star has the color of the class that is most of its samples, and is white where it has none. In
# the end soft lies under the stars.

colors = plt.get_cmap("tab10").colors
fig, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
for ax, n_passes, (soft, codebook, codes) in zip(axes, passes, states, strict=True):
    some = slice(None, None, 12)
    ax.plot(*np.stack([soft[some], codebook[codes[some]]]).transpose(2, 0, 1), color="0.8", linewidth=0.6, zorder=0)
    ax.scatter(*soft.T, c=[colors[label] for label in y], s=12)
    owners = [np.bincount(y[codes == k]).argmax() if (codes == k).any() else -1 for k in range(dpq.K)]
    stars = [colors[owner] if owner >= 0 else "white" for owner in owners]
    ax.scatter(*codebook.T, marker="*", s=230, color=stars, edgecolor="black", zorder=3)
    gap = np.linalg.norm(soft - codebook[codes], axis=1).mean() / soft.std()
    ax.set_title(f"{n_passes} {'pass' if n_passes == 1 else 'passes'}\ngap of soft and hard {gap:.2f}")
    ax.set(xticks=[], yticks=[])
    print(f"{n_passes:4d} passes: mean distance from soft to hard, in standard deviations of soft: {gap:.3f}")
plt.show()
