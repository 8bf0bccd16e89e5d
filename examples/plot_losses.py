"""
The objective, term by term
===========================

`loss_curve_` keeps each term of the objective after each epoch, before its weight; `LossCurveDisplay` draws them. With
validation data it also draws the accuracy from hard codes, by which the best epoch is chosen.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdpq import DPQClassifier, LossCurveDisplay

X, X_val, y, y_val = train_test_split(*load_digits(return_X_y=True), random_state=0)

# %%
# The paper's plain objective beside the defaults: all weights 1, nothing against overfitting. Its GiniSample weighs
# fifty times as much, so distributions over codewords become one-hot within a few epochs (GiniSample -1), and the
# softmax losses fall to zero on the training data. The defaults smooth labels and drop features, so theirs stay above.

plain = DPQClassifier(
    M=4,
    K=16,
    D=None,
    max_iter=60,
    label_smoothing=0,
    dropout=0,
    weight_decay=0,
    joint_central_weight=1,
    gini_batch_weight=1,
    gini_sample_weight=1,
    random_state=0,
)
defaults = DPQClassifier(M=4, K=16, max_iter=60, random_state=0)

fig, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
for ax, (name, clf) in zip(axes, {"The paper's objective": plain, "Defaults": defaults}.items(), strict=True):
    clf.fit(X, y, X_val=X_val, y_val=y_val)
    LossCurveDisplay.from_estimator(clf, ax=ax)
    ax.set_title(f"{name}: accuracy {max(clf.validation_scores_):.3f} at best")
    print(f"{name:24}" + "".join(f"  {term} {values[-1]:.3f}" for term, values in clf.loss_curve_.items()))
plt.show()
