"""
A graph of neighbours in t-SNE
==============================

Estimators of scikit-learn that take a precomputed graph of neighbours take one of codes: `DPQNeighbors` stands in front
of them as `KNeighborsTransformer` does. Here t-SNE draws the graphs of three searchers, of digits that were not in
training.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline

from skdpq import DPQNeighbors, DPQTransformer, ProductQuantizer

X_train, X, y_train, y = train_test_split(*load_digits(return_X_y=True), test_size=700, random_state=0)
dpq = DPQTransformer(M=8, K=16, supervision=0.2, random_state=0).fit(X_train, y_train)
pq = ProductQuantizer(M=8, K=16, random_state=0).fit(X_train)

# %%
# t-SNE reads three times as many neighbours as its perplexity. Codes that know labels alone would give most digits of a
# class one code, and t-SNE nothing to spread. With `supervision=0.2` they keep more of the digits' own shape.

searchers = {
    "DPQ, 32 bits": DPQNeighbors(61, quantizer=FrozenEstimator(dpq)),
    "PQ, 32 bits": DPQNeighbors(61, quantizer=FrozenEstimator(pq)),
    "exact, 2,048 bits": KNeighborsTransformer(n_neighbors=61),
}
fig, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
for ax, (name, searcher) in zip(axes, searchers.items(), strict=True):
    tsne = TSNE(metric="precomputed", perplexity=20, init="random", max_iter=500, random_state=0)
    embedded = make_pipeline(searcher, tsne).fit_transform(X)
    dots = ax.scatter(*embedded.T, c=y, cmap="tab10", s=6)
    ax.set(title=name, xticks=[], yticks=[])
    print(f"{name:24}trustworthiness by the pixels {trustworthiness(X, embedded):.3f}")
fig.colorbar(dots, ax=axes, ticks=range(10), label="Digit")
plt.show()
