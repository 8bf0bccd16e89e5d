"""
Supervised codes of 16 bits, beside unsupervised ones
=====================================================

Handwritten digits of 64 pixels are compressed to 16 bits, classified from these bits, and searched by them: by Deep
Product Quantization (DPQ), which learns from the labels, and by PQ and OPQ, which do not.

Printed are mean average precision (mAP) of held-out queries, accuracy from codes, and the compression ratio. The
picture shows some queries and their nearest neighbours; a red frame marks one of another class.
"""

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer

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
    return LogisticRegression(max_iter=10_000).fit(hard, y_database).score(hard_query, y_query)


# %%
# DPQNeighbors searches the codes of any of them. FrozenEstimator keeps it from fitting the quantizer again.

rows = []
for name, quantizer, search, accuracy in [
    ("DPQ asymmetric", dpq, "asymmetric", dpq.score(X_query, y_query)),
    ("DPQ symmetric", dpq, "symmetric", dpq.score(X_query, y_query)),
    ("OPQ", opq, "asymmetric", accuracy_from_codes(opq)),
    ("PQ", pq, "asymmetric", accuracy_from_codes(pq)),
]:
    neighbors = DPQNeighbors(n_neighbors=8, quantizer=FrozenEstimator(quantizer), search=search)
    neighbors.fit(X_database, y_database)
    rows.append((name, neighbors, neighbors.score(X_query, y_query), accuracy, quantizer.compression_ratio_))

print(f"{'':16}{'mAP':>8}{'accuracy':>10}{'compression':>13}")
for name, _, mean_average_precision, accuracy, ratio in rows:
    print(f"{name:16}{mean_average_precision:8.4f}{accuracy:10.4f}{ratio:12.0f}x")

# %%
# The hardest query of each class: the one of which DPQ is least sure.

margin = dpq.predict_proba(X_query).max(axis=1)
queries = [min((y_query == digit).nonzero()[0], key=margin.__getitem__) for digit in dpq.classes_]
shown = [row for row in rows if row[0] in ("DPQ asymmetric", "OPQ", "PQ")]

fig, axes = plt.subplots(
    len(queries),
    1 + len(shown) * 9,
    figsize=(15, 6.4),
    gridspec_kw={"width_ratios": [1] + [0.35, *[1] * 8] * len(shown)},
)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.axis("off")
for i, query in enumerate(queries):
    axes[i, 0].imshow(X_query[query].reshape(8, 8), cmap="gray_r")
    for j, (_, neighbors, *_) in enumerate(shown):
        ids = neighbors.kneighbors(X_query[[query]], return_distance=False)[0]
        for n, item in enumerate(ids):
            ax = axes[i, 1 + j * 9 + 1 + n]
            ax.imshow(X_database[item].reshape(8, 8), cmap="gray_r")
            if y_database[item] != y_query[query]:
                ax.axis("on")
                ax.spines[:].set(color="tab:red", linewidth=2.5)
axes[0, 0].set_title("query", fontsize=13)
for j, (name, _, score, *_) in enumerate(shown):
    axes[0, 1 + j * 9 + 5].set_title(f"{name.split()[0]}: mAP {score:.3f}", fontsize=13, loc="right")
fig.suptitle(f"Nearest neighbours by codes of {M * 4} bits; red: another class", fontsize=14)
fig.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.87, wspace=0.08, hspace=0.12)
fig.savefig("digits.png", dpi=110)
print("\nNeighbours of the hardest queries: digits.png")
