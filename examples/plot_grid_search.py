"""
Pipelines and grid searches
===========================

The estimators stand wherever scikit-learn's stand: in a Pipeline, in a GridSearchCV, in front of a classifier on a
neighbours graph. A grid over the bits shows what each costs in retrieval and in accuracy.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer

X, y = load_digits(return_X_y=True)
folds = StratifiedKFold(2, shuffle=True, random_state=0)

# %%
# Without labels `DPQNeighbors` would find Euclidean neighbours; its score, mean average precision, tells how far those
# are from sharing a label. Nested parameters reach the quantizer.

search = Pipeline(
    [("scale", StandardScaler()), ("neighbors", DPQNeighbors(quantizer=DPQTransformer(K=4, random_state=0)))]
)
grid = GridSearchCV(search, {"neighbors__quantizer__M": [1, 2, 4]}, cv=folds).fit(X, y)
dpq_map = grid.cv_results_["mean_test_score"]
search.set_params(neighbors__quantizer=ProductQuantizer(K=4, random_state=0))
pq_map = GridSearchCV(search, grid.param_grid, cv=folds).fit(X, y).cv_results_["mean_test_score"]

classify = make_pipeline(StandardScaler(), DPQClassifier(K=4, random_state=0))
accuracy = GridSearchCV(classify, {"dpqclassifier__M": [1, 2, 4]}, cv=folds).fit(X, y).cv_results_["mean_test_score"]

bits = 2 * np.array([1, 2, 4])
print(f"{'bits':>4}{'mAP, DPQ':>12}{'mAP, PQ':>12}{'accuracy, DPQ':>16}")
for row in zip(bits, dpq_map, pq_map, accuracy, strict=True):
    print("{:4d}{:12.4f}{:12.4f}{:16.4f}".format(*row))

# %%
# Soft representations as features, and a graph of neighbours by codes for a k-NN classifier.

for name, pipeline in {
    "DPQTransformer -> LogisticRegression": make_pipeline(
        DPQTransformer(M=4, K=4, random_state=0), LogisticRegression()
    ),
    "DPQNeighbors -> KNeighborsClassifier": make_pipeline(
        DPQNeighbors(n_neighbors=5, quantizer=DPQTransformer(M=4, K=4, random_state=0)),
        KNeighborsClassifier(n_neighbors=5, metric="precomputed"),
    ),
}.items():
    print(f"{name}: accuracy {cross_val_score(pipeline, X, y, cv=folds).mean():.4f}")

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(bits, dpq_map, "o-", label="mAP, DPQ")
ax.plot(bits, pq_map, "s--", label="mAP, PQ")
ax.plot(bits, accuracy, "^:", label="accuracy from codes, DPQ")
ax.set(xlabel="bits a sample", xticks=bits, title="Digits, 2 folds")
ax.legend()
plt.show()
