"""
Neighbours by codes of 16 bits
==============================

Handwritten digits of 64 pixels are compressed to 16 bits, classified from these bits, and searched by them: by Deep
Product Quantization (DPQ), which learns from the labels, and by PQ and OPQ, which do not.

Printed are mean average precision (mAP) of held-out queries, accuracy from codes, and the compression ratio. The
picture shows some queries and their nearest neighbours, beside those that exact search finds without compression.
"""

import time

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer, RetrievalDisplay
from skdpq.metrics import mean_average_precision

M, K = 4, 16  # 4 parts of log2(16) = 4 bits each

X, y = load_digits(return_X_y=True)
X_database, X_query, y_database, y_query = train_test_split(X, y, test_size=500, random_state=0, stratify=y)

# %%
# Every quantizer is an estimator; DPQ's is also a classifier.

start = time.perf_counter()
dpq = DPQClassifier(M=M, K=K, random_state=0).fit(X_database, y_database)
print(f"DPQ fitted on {len(X_database)} digits in {time.perf_counter() - start:.1f} s\n")
opq = ProductQuantizer(M=M, K=K, rotation="opq", random_state=0).fit(X_database)
pq = ProductQuantizer(M=M, K=K, random_state=0).fit(X_database)


def accuracy_from_codes(quantizer):
    """Score a linear classifier on decoded codes."""
    hard, hard_query = quantizer.decode(quantizer.encode(X_database)), quantizer.decode(quantizer.encode(X_query))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return linear.fit(hard, y_database).score(hard_query, y_query)


# %%
# DPQNeighbors searches the codes of any of them. FrozenEstimator keeps it from fitting the quantizer again.

accuracies = {"DPQ": dpq.score(X_query, y_query), "OPQ": accuracy_from_codes(opq), "PQ": accuracy_from_codes(pq)}
searchers, scores = {}, {}
print(f"{'':16}{'mAP':>8}{'accuracy':>10}{'compression':>13}")
for name, quantizer, parameters in [
    ("DPQ relevance", dpq, {"metric": "relevance"}),
    ("DPQ asymmetric", dpq, {"search": "asymmetric"}),
    ("DPQ symmetric", dpq, {"search": "symmetric"}),
    ("OPQ", opq, {}),
    ("PQ", pq, {}),
]:
    searchers[name] = DPQNeighbors(quantizer=FrozenEstimator(quantizer), **parameters).fit(X_database, y_database)
    scores[name] = searchers[name].score(X_query, y_query)
    accuracy = accuracies[name.split()[0]]
    print(f"{name:16}{scores[name]:8.4f}{accuracy:10.4f}{quantizer.compression_ratio_:12.0f}x")

searchers["exact"] = NearestNeighbors().fit(X_database)
scores["exact"] = mean_average_precision(y_query, y_database, pairwise_distances(X_query, X_database))
print(f"{'exact':16}{scores['exact']:8.4f}")

# %%
# The hardest query of each class: the one of which DPQ is least sure. Neighbours of its class have a solid green frame,
# others a dashed red one.

certainty = dpq.predict_proba(X_query).max(axis=1)
queries = [min((y_query == digit).nonzero()[0], key=certainty.__getitem__) for digit in dpq.classes_]
shown = {
    "DPQ relevance": "DPQ by relevance",
    "DPQ asymmetric": "DPQ by distance",
    "PQ": "PQ",
    "exact": "64 pixels, exact",
}

fig, axes = plt.subplots(1, 4, figsize=(15, 6.6), layout="constrained")
for ax, (name, title) in zip(axes, shown.items(), strict=True):
    RetrievalDisplay.from_estimator(
        searchers[name], X_query[queries], y_query[queries], items=X_database, y_items=y_database, ax=ax
    )
    ax.set_title(f"{title}\nmAP {scores[name]:.3f}", fontsize=14)
fig.suptitle(
    f"Hard queries and their five nearest of {len(X_database):,} digits: codes of {M * 4} bits, and exact search",
    fontsize=15,
)
fig.savefig("digits.png", dpi=110)
print("\nNeighbours of the hardest queries: digits.png")
plt.show()
