"""
Mean average precision against bits
===================================

How much of what the labels say do codes of a few bits keep? Queries are 500 digits that no method has seen, and the
database is the other 1,297. DPQ is searched by distance and by relevance. Beside it stand

* PQ and OPQ, which see no labels,
* PQ of the directions of a linear discriminant analysis,
* PQ of the square roots of the class probabilities of scikit-learn's `MLPClassifier`,
* and exact search of all 64 pixels, 2,048 bits in float32.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq.metrics import mean_average_precision

X, y = load_digits(return_X_y=True)
X, X_query, y, y_query = train_test_split(X, y, test_size=500, random_state=0, stratify=y)
parts = [1, 2, 3, 4, 6, 8]
K = 4  # two bits a part

# %%
# What rivals that know labels quantize.

lda = make_pipeline(StandardScaler(with_std=False), LinearDiscriminantAnalysis()).fit(X, y)
mlp = make_pipeline(StandardScaler(), MLPClassifier(early_stopping=True, random_state=0)).fit(X, y)
features = {
    "PQ": (X, X_query),
    "PQ of discriminants": (lda.transform(X), lda.transform(X_query)),
    "PQ of MLP's posterior": (np.sqrt(mlp.predict_proba(X)), np.sqrt(mlp.predict_proba(X_query))),
}

# %%
# One fit for each number of parts. Parameters of the search may change on a fitted estimator.

curves = {}
for M in parts:
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(DPQTransformer(M=M, K=K, random_state=0).fit(X, y))).fit(X, y)
    curves.setdefault("DPQ by relevance", []).append(neighbors.set_params(metric="relevance").score(X_query, y_query))
    curves.setdefault("DPQ", []).append(neighbors.set_params(metric="euclidean").score(X_query, y_query))
    for name, (of_database, of_queries) in features.items():
        pq = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=K, random_state=0)).fit(of_database, y)
        curves.setdefault(name, []).append(pq.score(of_queries, y_query))
    opq = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=K, rotation="opq", random_state=0)).fit(X, y)
    curves.setdefault("OPQ", []).append(opq.score(X_query, y_query))
exact = mean_average_precision(y_query, y, pairwise_distances(X_query, X))

# %%
# Many items share one of few codes, and then a distance. The measure averages over the orders of tied items, so codes
# of two bits get what they deserve.

bits = 2 * np.array(parts)
fig, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
for (name, scores), style in zip(curves.items(), ["o-", "s-", "^--", "v--", "D--", "x--"], strict=True):
    ax.plot(bits, scores, style, label=name)
    print(f"{name:24}" + "".join(f"{score:8.3f}" for score in scores))
ax.axhline(exact, color="black", linestyle=":", label="exact search, 2,048 bits")
ax.set(xlabel="Bits a digit", ylabel="Mean average precision", xticks=bits, ylim=(0.2, 1.02))
ax.set_title("Retrieval of digits by codes")
ax.legend(fontsize=9, loc="lower right")
plt.show()
