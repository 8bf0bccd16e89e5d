"""
Watching a grid search
======================

scikit-learn's ProgressBar shows the candidates of a GridSearchCV, the steps of its Pipelines, and in each the epochs of
our estimators. It needs rich: ``pip install skdpq[progress]``.
"""

from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQNeighbors, DPQTransformer

X, y = load_digits(return_X_y=True)
search = Pipeline(
    [("scale", StandardScaler()), ("neighbors", DPQNeighbors(quantizer=DPQTransformer(K=16, random_state=0)))]
)
grid = GridSearchCV(search, {"neighbors__quantizer__M": [2, 4]}, cv=StratifiedKFold(2))
grid.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
print(f"Mean average precision {grid.best_score_:.3f} with {grid.best_params_}")
