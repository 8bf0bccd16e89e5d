"""
A heat map over M and K
=======================

A code of M parts with K codewords each takes M log2(K) bits. The same bits can be spent in several ways: on more parts,
or on more codewords a part. `GridSearchCV` measures them by mean average precision of held-out queries.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from skdpq import DPQNeighbors, DPQTransformer

X, y = load_digits(return_X_y=True)
grid = {"quantizer__M": [1, 2, 3, 4, 6], "quantizer__K": [2, 4, 8, 16]}
warnings.filterwarnings("ignore", category=ConvergenceWarning)  # fewer epochs than "auto" takes, as this is a picture
search = GridSearchCV(
    DPQNeighbors(quantizer=DPQTransformer(max_iter=30, random_state=0)),
    grid,
    cv=StratifiedShuffleSplit(1, test_size=400, random_state=0),  # one split: the picture takes seconds
    refit=False,
).fit(X, y)

# %%
# Here the bits are what counts: cells of equal bits are about equal, and four bits are enough for ten classes. M and K
# that the data do not decide are chosen by what they cost.

scores = search.cv_results_["mean_test_score"].reshape(4, 5)  # K changes slowest, as its name comes first
fig, ax = plt.subplots(figsize=(7.4, 4.8), layout="constrained")
image = ax.imshow(scores, cmap="viridis", vmin=0.5)
for (i, j), score in np.ndenumerate(scores):
    bits = grid["quantizer__M"][j] * int(np.log2(grid["quantizer__K"][i]))
    color = "black" if image.norm(score) > 0.5 else "white"
    ax.text(j, i, f"{score:.3f}\n{bits} bit{'s' if bits > 1 else ''}", ha="center", va="center", color=color)
ax.set(
    xlabel="M, parts",
    ylabel="K, codewords a part",
    xticks=range(5),
    xticklabels=grid["quantizer__M"],
    yticks=range(4),
    yticklabels=grid["quantizer__K"],
)
fig.colorbar(image, label="Mean average precision", extend="min")
ax.set_title("Digits by codes of M log2(K) bits")
plt.show()
