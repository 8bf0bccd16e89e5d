"""
Accuracy from codes against compression
=======================================

A classifier that reads codes needs no vectors: `DPQClassifier` looks up M rows of a table and adds them (section 3.1.2
of the paper). Beside it stand logistic regression on codes of PQ, decoded, and on all 64 pixels.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, ProductQuantizer

X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=600, random_state=0)


def linear():
    """Make a linear classifier."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


# %%
# From 4 bits a digit, which is hardly more than ten classes need, to 32.

ratios, accuracies = [], {"DPQ": [], "PQ, then logistic regression": []}
for M in [1, 2, 4, 8]:
    dpq = DPQClassifier(M=M, K=16, random_state=0).fit(X, y)
    pq = ProductQuantizer(M=M, K=16, output="hard", random_state=0).fit(X)
    ratios.append(dpq.compression_ratio_)
    accuracies["DPQ"].append(dpq.score(X_test, y_test))
    from_pq = linear().fit(pq.transform(X), y).score(pq.transform(X_test), y_test)
    accuracies["PQ, then logistic regression"].append(from_pq)
uncompressed = linear().fit(X, y).score(X_test, y_test)

# %%
# Compression is by equation 8: 32 bits a value against M log2(K) bits a digit.

fig, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
for (name, values), style in zip(accuracies.items(), ["o-", "s--"], strict=True):
    ax.semilogx(ratios, values, style, label=name, base=2)
    print(f"{name:30}" + "".join(f"{value:8.3f}" for value in values))
ax.axhline(uncompressed, color="black", linestyle=":", label="logistic regression, not compressed")
ax.set(xlabel="Times smaller than float32", ylabel="Accuracy on 600 digits", title="Classification from codes")
ax.set_xticks(ratios, [f"{ratio:.0f}" for ratio in ratios])
ax.legend(loc="lower left")
plt.show()
