"""Measures of retrieval that ties cannot disturb.

Codes make many items equally distant. Here items at equal distance contribute their expected value over a random order
of the tied items, so neither the order of the database nor a sort's treatment of ties can change a score.
"""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import (
    assert_all_finite,
    check_consistent_length,
    check_scalar,
)
from sklearn.utils.validation import check_is_fitted

from ._arrays import as_array, check_array, column_or_1d, slices_of
from ._atomic import snapshot
from ._search import ranking
from ._search.ranking import CodeGroups, tie_groups_from_distances

__all__ = [
    "interpolated_mean_average_precision",
    "mean_average_precision",
    "precision_at_k",
    "recall_at_k",
    "retrieval_scorer",
    "score_neighbors",
]

_CURVE_RANKS = 200  # at most; a curve of more looks the same
_QUERIES_PER_TASK = 32  # a few milliseconds of work, well above what joblib takes to hand it out


def mean_average_precision(y: ArrayLike, y_database: ArrayLike, distances: ArrayLike, *, k: int | None = None) -> float:
    r"""Mean average precision (mAP) of retrieving items of the queries' labels.

    With :math:`P(i)` the precision among the first i items, :math:`rel(i)` whether item i has the query's label, R the
    number of items that have it, and k the length of the ranking unless given, a query's average precision is

    .. math:: AP@k = \frac{1}{\min(R, k)} \sum_{i=1}^{k} E[P(i)\, rel(i)].

    The expectation is over random orders of the items at equal distance [1]_. In a group of n tied items, r of them
    relevant, that comes after N items, R' of them relevant, position N + i contributes

    .. math:: \frac{r}{n} \cdot \frac{R' + 1 + (i - 1) (r - 1) / (n - 1)}{N + i}.

    Parameters
    ----------
    y : array-like of shape (n_queries,)
        Labels of the queries, e.g. numbers or strings.
    y_database : array-like of shape (n_database,)
        Labels of the items that are ranked.
    distances : array-like of shape (n_queries, n_database)
        Distances of every item to every query; smaller ranks first. May be infinite.
    k : int, default=None
        Cut the rankings after k items. The whole ranking if None.

    Returns
    -------
    score : float
        The mean over the queries, between 0 and 1. A query without any relevant item has average precision 0.

    Raises
    ------
    TypeError
        If `k` is not an integer.
    ValueError
        If `k` is not in 1..n_database, lengths do not match, an input is empty or has NaN, or strings are to be matched
        with numbers.

    See Also
    --------
    interpolated_mean_average_precision : The protocol of SUBIC.
    precision_at_k : Share of the first k items that are relevant.
    retrieval_scorer : The same measure of a fitted index, without a matrix of distances.

    References
    ----------
    .. [1] F. McSherry and M. Najork, "Computing information retrieval performance measures efficiently in the presence
       of tied scores", ECIR 2008.

    Examples
    --------
    >>> from skdpq.metrics import mean_average_precision
    >>> y_database = ["cat", "dog", "cat"]
    >>> mean_average_precision(["cat"], y_database, [[0.1, 0.2, 0.3]])  # (1/1 + 2/3) / 2
    0.8333333333333333
    >>> mean_average_precision(["cat"], y_database, [[0.1, 0.1, 0.3]])  # mean of that and (1/2 + 2/3) / 2
    0.7083333333333333
    """
    return _score_distances(y, y_database, distances, "mean_average_precision", k=k)


def interpolated_mean_average_precision(
    y: ArrayLike, y_database: ArrayLike, distances: ArrayLike, *, n_points: int = 21
) -> float:
    r"""Interpolated mean average precision, by default at the 21 recall levels of SUBIC [2]_.

    A query's value is the mean over the recall levels :math:`t = 0, 1 / (n\_points - 1), \ldots, 1` of the largest
    precision at any position whose recall is t or more.

    Precision and recall are taken on the curve of expected relevant counts [1]_: among n tied items, r of them
    relevant, the count grows by r / n from each position to the next. That is the textbook's definition where nothing
    is tied. With ties it is not the expected value of the maximum, which has no closed form, but is just as independent
    of the order of the items.

    Parameters
    ----------
    y : array-like of shape (n_queries,)
        Labels of the queries, e.g. numbers or strings.
    y_database : array-like of shape (n_database,)
        Labels of the items that are ranked.
    distances : array-like of shape (n_queries, n_database)
        Distances of every item to every query; smaller ranks first. May be infinite.
    n_points : int, default=21
        Number of recall levels, at least 2. 11 is the classical choice of TREC and PASCAL VOC 2007.

    Returns
    -------
    score : float
        The mean over the queries, between 0 and 1. A query without any relevant item has value 0.

    Raises
    ------
    TypeError
        If `n_points` is not an integer.
    ValueError
        If `n_points` is below 2, lengths do not match, an input is empty or has NaN, or strings are to be matched with
        numbers.

    See Also
    --------
    mean_average_precision : Without interpolation.

    References
    ----------
    .. [1] F. McSherry and M. Najork, "Computing information retrieval performance measures efficiently in the presence
       of tied scores", ECIR 2008.
    .. [2] H. Jain, J. Zepeda, P. Pérez and R. Gribonval, "SUBIC: A supervised, structured binary code for image
       search", ICCV 2017.

    Examples
    --------
    >>> from skdpq.metrics import interpolated_mean_average_precision
    >>> distances = [[0.1, 0.2, 0.3]]  # precision 1 up to recall 1/2, and 2/3 above it
    >>> interpolated_mean_average_precision([1], [1, 0, 1], distances, n_points=3)  # (1 + 1 + 2/3) / 3
    0.8888888888888888
    """
    return _score_distances(y, y_database, distances, "interpolated_mean_average_precision", n_points=n_points)


def precision_at_k(y: ArrayLike, y_database: ArrayLike, distances: ArrayLike, k: int) -> float:
    r"""Mean share of the first k items that have the query's label.

    .. math:: P@k = \frac{1}{k} \sum_{i=1}^{k} E[rel(i)],

    with the expectation over random orders of the items at equal distance [1]_: if k falls among n tied items, r of
    them relevant, each that is taken counts r / n.

    Parameters
    ----------
    y : array-like of shape (n_queries,)
        Labels of the queries, e.g. numbers or strings.
    y_database : array-like of shape (n_database,)
        Labels of the items that are ranked.
    distances : array-like of shape (n_queries, n_database)
        Distances of every item to every query; smaller ranks first. May be infinite.
    k : int
        Number of items to retrieve, from 1 to n_database.

    Returns
    -------
    score : float
        The mean over the queries, between 0 and 1.

    Raises
    ------
    TypeError
        If `k` is not an integer.
    ValueError
        If `k` is not in 1..n_database, lengths do not match, an input is empty or has NaN, or strings are to be matched
        with numbers.

    See Also
    --------
    recall_at_k : Share of the relevant items that are found.

    References
    ----------
    .. [1] F. McSherry and M. Najork, "Computing information retrieval performance measures efficiently in the presence
       of tied scores", ECIR 2008.

    Examples
    --------
    >>> from skdpq.metrics import precision_at_k
    >>> precision_at_k([1], [1, 0, 1, 0], [[0.1, 0.2, 0.2, 0.3]], k=2)  # one, and half of another
    0.75
    """
    return _score_distances(y, y_database, distances, "precision_at_k", k=k)


def recall_at_k(y: ArrayLike, y_database: ArrayLike, distances: ArrayLike, k: int) -> float:
    r"""Mean share of the items with the query's label that are among the first k.

    .. math:: R@k = \frac{1}{R} \sum_{i=1}^{k} E[rel(i)],

    with R the number of items that have the label and the expectation over random orders of the items at equal distance
    [1]_: if k falls among n tied items, r of them relevant, each that is taken counts r / n.

    Parameters
    ----------
    y : array-like of shape (n_queries,)
        Labels of the queries, e.g. numbers or strings.
    y_database : array-like of shape (n_database,)
        Labels of the items that are ranked.
    distances : array-like of shape (n_queries, n_database)
        Distances of every item to every query; smaller ranks first. May be infinite.
    k : int
        Number of items to retrieve, from 1 to n_database.

    Returns
    -------
    score : float
        The mean over the queries, between 0 and 1. A query without any relevant item has recall 0.

    Raises
    ------
    TypeError
        If `k` is not an integer.
    ValueError
        If `k` is not in 1..n_database, lengths do not match, an input is empty or has NaN, or strings are to be matched
        with numbers.

    See Also
    --------
    precision_at_k : Share of the retrieved items that are relevant.

    References
    ----------
    .. [1] F. McSherry and M. Najork, "Computing information retrieval performance measures efficiently in the presence
       of tied scores", ECIR 2008.

    Examples
    --------
    >>> from skdpq.metrics import recall_at_k
    >>> recall_at_k([1], [1, 0, 1, 0], [[0.1, 0.2, 0.2, 0.3]], k=2)  # one and a half of two
    0.75
    """
    return _score_distances(y, y_database, distances, "recall_at_k", k=k)


def retrieval_scorer(metric: str = "mean_average_precision", **kwargs: Any) -> Callable[..., float]:
    """Make a scorer of a fitted index, for ``scoring=`` in GridSearchCV and cross_validate.

    Parameters
    ----------
    metric : {"mean_average_precision", "interpolated_mean_average_precision", "precision_at_k", "recall_at_k"}, \
            default="mean_average_precision"
        What to measure: the function of that name.
    **kwargs : dict
        Its parameters: `k` or `n_points`.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` returns `score_neighbors` of the estimator, a DPQNeighbors or a Pipeline that ends
        in one. It can be pickled.

    Raises
    ------
    TypeError
        If the metric does not take the parameters, lacks one, or one is not an integer.
    ValueError
        If there is no such metric, or a parameter is out of range.

    See Also
    --------
    score_neighbors : What the scorer calls.

    Notes
    -----
    In cross-validation the held-out samples query an index of the others. An index is no classifier, so ``cv=5`` does
    not stratify the folds: give ``cv=StratifiedKFold(5)``, or a class may be missing from the index.

    Examples
    --------
    >>> from skdpq.metrics import retrieval_scorer
    >>> scoring = {"mAP": retrieval_scorer(), "P@10": retrieval_scorer("precision_at_k", k=10)}
    >>> sorted(scoring)  # ready for cross_validate(..., scoring=scoring)
    ['P@10', 'mAP']
    """
    _resolve(metric, kwargs)
    return partial(score_neighbors, metric=metric, **kwargs)


def score_neighbors(
    estimator: Any, X: ArrayLike, y: ArrayLike, metric: str = "mean_average_precision", **kwargs: Any
) -> float:
    """Measure how well a fitted index ranks its items for labelled queries.

    The value is that of the function `metric` on the distances of the index, but no matrix of them is made: items of
    equal code are ranked as one.

    Parameters
    ----------
    estimator : DPQNeighbors or Pipeline
        Fitted with labels; of a Pipeline, the last step. Its parameter `n_jobs` is obeyed.
    X : array-like of shape (n_queries, n_features)
        Queries.
    y : array-like of shape (n_queries,)
        Their labels. One that no item has simply has no relevant items.
    metric : {"mean_average_precision", "interpolated_mean_average_precision", "precision_at_k", "recall_at_k"}, \
            default="mean_average_precision"
        What to measure: the function of that name.
    **kwargs : dict
        Its parameters: `k` or `n_points`.

    Returns
    -------
    score : float
        The mean over the queries.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is not an index of codes, or the metric does not take the parameters.
    ValueError
        If an item of the index has no label, X and y do not match, or a parameter is out of range.

    See Also
    --------
    retrieval_scorer : The same as a scorer for model selection.
    mean_average_precision : The default metric, on any distances.
    """
    measure, value = _resolve(metric, kwargs)
    scores = _measure_neighbors(
        estimator, X, y, lambda n_items: (measure.kernel, _for_database(measure, value, n_items)), ()
    )
    return float(scores.mean())


def curve_of_neighbors(
    estimator: Any, X: ArrayLike, y: ArrayLike, k: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Measure precision and recall of a fitted index at many ranks at once.

    Parameters
    ----------
    estimator, X, y
        As in `score_neighbors`.
    k : int, default=None
        The last rank. The number of items if None.

    Returns
    -------
    ranks : ndarray of shape (n_ranks,), int64
        From 1 to `k`, at most 200, which are even on a logarithmic scale.
    precision, recall : ndarray of shape (n_ranks,), float64
        `precision_at_k` and `recall_at_k` at these.
    """
    n_items = len(_fitted_index(estimator)[0].codes_)
    ranks = _ranks(n_items, k)
    curves = _measure_neighbors(estimator, X, y, lambda _: (ranking.precision_and_recall, ranks), (2, len(ranks)))
    return ranks, *curves.mean(axis=0)


def curve_of_distances(
    y: ArrayLike, y_database: ArrayLike, distances: ArrayLike, k: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Measure precision and recall of rankings at many ranks at once.

    Parameters
    ----------
    y, y_database, distances
        As in `mean_average_precision`.
    k : int, default=None
        The last rank. The number of items if None.

    Returns
    -------
    ranks, precision, recall : ndarray of shape (n_ranks,)
        As of `curve_of_neighbors`.
    """
    groups, n_items = _groups_of_distances(y, y_database, distances)
    ranks = _ranks(n_items, k)
    return ranks, *np.mean([ranking.precision_and_recall(n, r, ranks) for n, r in groups], axis=0)


def _fitted_index(estimator):
    """Return an index as it is now, and the transformers of a Pipeline that it is the last step of."""
    transformers = []
    while isinstance(estimator, Pipeline):
        transformers += [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
        estimator = estimator.steps[-1][1]
    if not hasattr(estimator, "query_tables"):
        raise TypeError(f"Expected a DPQNeighbors or a Pipeline that ends in one, got {estimator!r}.")
    check_is_fitted(estimator)
    return snapshot(estimator), transformers


def _measure_neighbors(estimator, X, y, measure, shape):
    """Return what is measured of each query's ranking, of shape (n_queries, *shape).

    `measure` gives kernel and parameter, as `CodeGroups.measure` takes them, for a number of items.
    """
    estimator, transformers = _fitted_index(estimator)
    labels = _database_labels(estimator)
    classes = estimator.classes_.tolist()
    targets = _match(_check_labels(y, "y"), classes)
    check_consistent_length(X, targets)
    kernel, parameter = measure(len(labels))
    for transformer in transformers:
        X = transformer.transform(X)

    groups = CodeGroups(estimator.codes_, labels, len(classes), getattr(estimator, "_classifier", None))
    measured = np.empty((len(targets), *shape))
    # The threads share one block of tables at a time, which bounds the memory; sharedmem rules processes out.
    with Parallel(n_jobs=estimator.n_jobs, require="sharedmem") as parallel:
        for start, tables in estimator.query_tables(X):
            targets_block, out = targets[start:], measured[start:]
            parallel(
                delayed(groups.measure)(tables[part], targets_block[part], kernel, parameter, out[part])
                for part in slices_of(len(tables), _QUERIES_PER_TASK)
            )
    return measured


def _score_distances(y, y_database, distances, metric, **kwargs):
    """Measure rankings by a matrix of distances."""
    measure, value = _resolve(metric, kwargs)
    groups, n_items = _groups_of_distances(y, y_database, distances)
    value = _for_database(measure, value, n_items)
    return float(np.mean([measure.kernel(n, r, value) for n, r in groups]))


def _groups_of_distances(y, y_database, distances):
    """Return the tie groups of each query's ranking, one after the other, and the number of items."""
    # No copy: float32 and integer distances are ranked as they are, and infinite ones may be.
    distances = check_array(as_array(distances), dtype="numeric", ensure_all_finite=False, input_name="distances")
    database = _check_labels(y_database, "y_database")
    queries = _check_labels(y, "y")
    if distances.shape != (len(queries), len(database)):
        raise ValueError(
            f"Expected distances of shape (n_queries, n_database) = ({len(queries)}, {len(database)}), "
            f"got {distances.shape}."
        )
    classes = list(dict.fromkeys(database))
    labels = _match(database, classes)
    targets = _match(queries, classes)
    groups = (tie_groups_from_distances(row, labels == target) for row, target in zip(distances, targets, strict=True))
    return groups, len(database)


def _ranks(n_items, k):
    """Return up to `_CURVE_RANKS` ranks from 1 to k, even on a logarithmic scale."""
    if k is not None:
        check_scalar(k, "k", Integral, min_val=1, max_val=n_items)
    last = n_items if k is None else int(k)
    return np.unique(np.geomspace(1, last, _CURVE_RANKS).round().astype(np.intp))


class _Measure(NamedTuple):
    """How a metric is computed from tie groups, and its one parameter."""

    kernel: Callable[[Any, Any, int], float]
    parameter: str = "k"
    minimum: int = 1
    default: int | None = None
    none_allowed: bool = False


_METRICS = {
    "mean_average_precision": _Measure(ranking.average_precision, none_allowed=True),
    "interpolated_mean_average_precision": _Measure(ranking.interpolated_average_precision, "n_points", 2, 21),
    "precision_at_k": _Measure(ranking.precision),
    "recall_at_k": _Measure(ranking.recall),
}


def _resolve(name, parameters):
    """Return the kernel of a metric, and its parameter validated as far as no database is needed."""
    if name not in _METRICS:
        raise ValueError(f"Expected metric to be one of {sorted(_METRICS)}, got {name!r}.")
    measure = _METRICS[name]
    if parameters.keys() - {measure.parameter}:
        raise TypeError(f"Expected {name} to get the parameter {measure.parameter!r} only, got {sorted(parameters)}.")
    value = parameters.get(measure.parameter, measure.default)
    if value is not None or not measure.none_allowed:
        check_scalar(value, measure.parameter, Integral, min_val=measure.minimum)
    return measure, value


def _for_database(measure, value, n_database):
    """Return the parameter as the kernel takes it, for a database of that size."""
    if measure.parameter != "k":
        return int(value)
    if value is not None and value > n_database:
        raise ValueError(f"Expected k <= n_database, got k = {value}, n_database = {n_database}.")
    return n_database if value is None else int(value)


def _check_labels(y, name):
    """Return labels as a list of Python objects, whose equality knows the string "1" from the number 1."""
    y = column_or_1d(y)
    assert_all_finite(y, input_name=name)
    if len(y) == 0:
        raise ValueError(f"Expected at least one label in {name}, got none.")
    return y.tolist()


def _match(labels, classes):
    """Return each label's position in `classes`, -1 where it has none."""
    if {isinstance(label, str) for label in labels}.isdisjoint({isinstance(label, str) for label in classes}):
        raise ValueError(
            f"Expected the labels of queries and database to be of one kind, got {labels[0]!r} and {classes[0]!r}: "
            "strings never equal numbers."
        )
    position = {label: c for c, label in enumerate(classes)}
    return np.array([position.get(label, -1) for label in labels], dtype=np.int64)


def _database_labels(neighbors):
    """Return the labels of the items of an index, all of which must have one."""
    labels = getattr(neighbors, "labels_", None)
    if labels is None:
        raise ValueError("Expected an index whose items have labels, got one fitted without y. Give y to fit.")
    if len(labels) == 0:
        raise ValueError("Expected an index with at least one item, got an empty one. Add items first.")
    n_missing = np.count_nonzero(labels < 0)
    if n_missing:
        raise ValueError(
            f"Expected a label for every item of the index, got {n_missing} of {len(labels)} without. Give y whenever "
            "items are added, or remove those."
        )
    return labels
