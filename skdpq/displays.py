"""Displays draw what a search finds, how good it is, how codewords are used, and how a loss falls.

A user calls them, in scikit-learn's manner: `from_estimator` and `from_predictions` compute and draw, the constructor
keeps what is drawn, and `plot` draws it once more, elsewhere or otherwise. Nothing here fits anything, and only `plot`
imports matplotlib.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ._arrays import as_array, check_array
from ._codes import check_codes
from .metrics import curve_of_distances, curve_of_neighbors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CodebookUsageDisplay", "LossCurveDisplay", "RetrievalCurveDisplay", "RetrievalDisplay"]

Pictures: TypeAlias = Sequence[Any] | NDArray[Any]  # what is drawn, one thing after the other

_HIT = {"color": "tab:green", "linewidth": 2.0}
_MISS = {"color": "tab:red", "linewidth": 2.0, "linestyle": (0, (2, 1.5))}  # dashed: not everybody tells green from red
_PICTURE_INCHES = 0.7  # in a figure of their own
_GAP = 0.3  # between a query and its neighbours, in widths of a picture
_LARGEST_K = 65536  # as of the estimators
_MARGIN = 0.06  # around a picture, in its widths


def _axes(display, ax, **kwargs):
    """Return axes to draw into, those of a new figure if there are none, for the display whose `plot` asks."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(layout="constrained", **kwargs)
    return ax


class RetrievalDisplay:
    """Queries and their neighbours as pictures, a row for each query; hits are framed.

    It is made by `from_estimator` or `from_predictions`. All parameters are kept as attributes.

    Parameters
    ----------
    queries : sequence of length n_queries
        What is drawn of each query, at the left of its row.
    neighbors : sequence of shape (n_queries, n_neighbors)
        What is drawn of its neighbours, the nearest first.
    hits : array-like of shape (n_queries, n_neighbors), bool, default=None
        Which neighbours have the label of their query. Without, nothing is framed.

    Attributes
    ----------
    axes_ : ndarray of shape (n_queries, 1 + n_neighbors), object
        Axes of each picture, inside `ax_`; those of the queries are the first column.
    ax_ : matplotlib Axes
        Axes that hold all pictures.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    RetrievalCurveDisplay : Precision and recall of many queries.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import DPQNeighbors, DPQTransformer, RetrievalDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> dpq = DPQTransformer(M=4, K=16, max_iter=10, random_state=0)
    >>> neighbors = DPQNeighbors(quantizer=dpq).fit(X[:1500], y[:1500])
    >>> display = RetrievalDisplay.from_estimator(neighbors, X[1500:1504], y[1500:1504], items=X, n_neighbors=8)
    >>> display.hits.shape
    (4, 8)
    """

    axes_: NDArray[np.object_]
    ax_: "Axes"
    figure_: "Figure"

    def __init__(self, queries: Pictures, neighbors: Pictures, *, hits: ArrayLike | None = None) -> None:
        self.queries = queries
        self.neighbors = neighbors
        self.hits = hits

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        items: Pictures | Mapping[Any, Any],
        y_items: Pictures | Mapping[Any, Any] | None = None,
        queries: Pictures | None = None,
        n_neighbors: int | None = None,
        draw: "Callable[[Axes, Any], Any] | None" = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Search for queries, and draw them beside their neighbours.

        Parameters
        ----------
        estimator : DPQNeighbors, or scikit-learn's NearestNeighbors
            Fitted; anything with ``kneighbors(X, n_neighbors, return_distance=False)``.
        X : array-like of shape (n_queries, n_features), or whatever the estimator takes
            Queries. Each gets a row, so give a few.
        y : array-like of shape (n_queries,), default=None
            Their labels. Without, nothing is framed.
        items : sequence or mapping
            What is drawn of an item: ``items[id]``, such as the rows that the estimator was fitted on, or a dict of
            pictures by id.
        y_items : sequence or mapping, default=None
            Label of an item, ``y_items[id]``. By default what `labels_of` of a `DPQNeighbors` says.
        queries : sequence of length n_queries, default=None
            What is drawn of the queries. X by default.
        n_neighbors : int, default=None
            Number of neighbours. By default that of the estimator.
        draw : callable, default=None
            As in `plot`.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : RetrievalDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If there are labels of queries, and no way to those of items.
        ValueError
            If lengths do not match, or labels are strings here and numbers there.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if y is not None and y_items is None and not hasattr(estimator, "labels_of"):
            raise TypeError(f"Expected y_items with y, as a {type(estimator).__name__} keeps no labels, got None.")
        ids = estimator.kneighbors(X, n_neighbors, return_distance=False)
        neighbors = [[items[item_id] for item_id in row] for row in ids.tolist()]
        if y is None:
            y_neighbors = None
        elif y_items is None:
            y_neighbors = estimator.labels_of(ids)
        else:
            y_neighbors = [[y_items[item_id] for item_id in row] for row in ids.tolist()]
        return cls.from_predictions(
            np.asarray(as_array(X)) if queries is None else queries, neighbors, y, y_neighbors, draw=draw, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        queries: Pictures,
        neighbors: Pictures,
        y: ArrayLike | None = None,
        y_neighbors: ArrayLike | None = None,
        *,
        draw: "Callable[[Axes, Any], Any] | None" = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw queries beside neighbours that were found in any way.

        Parameters
        ----------
        queries : sequence of length n_queries
            What is drawn of each query.
        neighbors : sequence of shape (n_queries, n_neighbors)
            What is drawn of its neighbours, the nearest first.
        y : array-like of shape (n_queries,), default=None
            Labels of the queries. Without, nothing is framed.
        y_neighbors : array-like of shape (n_queries, n_neighbors), default=None
            Labels of the neighbours, given if and only if `y` is.
        draw : callable, default=None
            As in `plot`.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : RetrievalDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If lengths do not match, one of `y` and `y_neighbors` is missing, or labels are strings here and numbers
            there.

        Examples
        --------
        >>> from skdpq import RetrievalDisplay
        >>> write = lambda ax, word: ax.text(0.5, 0.5, word, ha="center", va="center")
        >>> display = RetrievalDisplay.from_predictions(
        ...     ["cat"], [["lion", "tram"]], ["animal"], [["animal", "vehicle"]], draw=write
        ... )
        >>> display.hits
        array([[ True, False]])
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        check_consistent_length(queries, neighbors, y, y_neighbors)
        if len(queries) == 0 or len({len(row) for row in neighbors}) > 1:
            raise ValueError("Expected a query or more, and equally many neighbours of each.")
        if (y is None) != (y_neighbors is None):
            raise ValueError("Expected y and y_neighbors, or neither, got one of them.")
        hits = None if y is None else _hits(y, y_neighbors, len(neighbors[0]))
        return cls(queries, neighbors, hits=hits).plot(draw=draw, ax=ax)

    def plot(
        self,
        *,
        draw: "Callable[[Axes, Any], Any] | None" = None,
        hit_kwargs: dict[str, Any] | None = None,
        miss_kwargs: dict[str, Any] | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw the pictures.

        Parameters
        ----------
        draw : callable, default=None
            ``draw(ax, item)`` draws one query or neighbour into axes of its own. By default it is an image: an array
            of shape (height, width), (height, width, 3 or 4), or a flat square one.
        hit_kwargs : dict, default=None
            Properties of the lines that frame hits, such as ``{"color": "black"}``.
        miss_kwargs : dict, default=None
            Properties of the lines that frame the other neighbours, ``{"visible": False}`` for none.
        ax : matplotlib Axes, default=None
            Axes to draw into. By default those of a new figure.

        Returns
        -------
        display : RetrievalDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If an item is no image, and there is no `draw`.
        """
        n_queries, n_neighbors = len(self.queries), len(self.neighbors[0])
        size = np.array([1 + _GAP + n_neighbors, n_queries])
        ax = _axes(self, ax, figsize=size * _PICTURE_INCHES)
        ax.set_axis_off()
        ax.set_box_aspect(size[1] / size[0])
        self.axes_ = np.empty((n_queries, 1 + n_neighbors), dtype=object)
        for (i, j), _ in np.ndenumerate(self.axes_):
            corner = np.array([j + (_GAP if j else 0), n_queries - 1 - i]) + _MARGIN
            picture = ax.inset_axes((*(corner / size), *((1 - 2 * _MARGIN) / size)))
            picture.set(xticks=[], yticks=[], in_layout=False)
            (draw or _draw_image)(picture, self.neighbors[i][j - 1] if j else self.queries[i])
            picture.spines[:].set(visible=False)
            if j and self.hits is not None:
                hit = np.asarray(self.hits)[i, j - 1]
                picture.spines[:].set(visible=True)
                picture.spines[:].set(**(_HIT if hit else _MISS) | ((hit_kwargs if hit else miss_kwargs) or {}))
            self.axes_[i, j] = picture
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _hits(y, y_neighbors, n_neighbors):
    """Return which neighbours have the label of their query, (n_queries, n_neighbors) bool."""
    y, y_neighbors = np.asarray(as_array(y)), np.asarray(as_array(y_neighbors))
    if y.ndim != 1 or y_neighbors.shape != (len(y), n_neighbors):
        raise ValueError(
            f"Expected y of shape (n_queries,) and y_neighbors of shape (n_queries, {n_neighbors}), got {y.shape} and "
            f"{y_neighbors.shape}."
        )
    kinds = {isinstance(labels.flat[0], str) for labels in (y, y_neighbors)}
    if len(kinds) == 2:
        raise ValueError("Expected the labels of queries and neighbours to be of one kind, got strings and numbers.")
    return y_neighbors == y[:, None]


def _draw_image(ax, item):
    """Draw an array as an image, grey unless it has colours."""
    image = np.asarray(as_array(item))
    side = math.isqrt(image.size)
    if image.ndim == 1 and side**2 == image.size:
        image = image.reshape(side, side)
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] not in (3, 4)):
        raise ValueError(
            "Expected images of shape (height, width) or (height, width, 3 or 4), or flat square ones, got "
            f"{image.shape}. Say by draw=function(ax, item) how to draw others."
        )
    ax.imshow(image, cmap="gray_r")


class RetrievalCurveDisplay:
    """Precision and recall against rank, means over queries; several searchers may share the axes.

    It is made by `from_estimator` or `from_predictions`. All parameters are kept as attributes.

    Parameters
    ----------
    ranks : ndarray of shape (n_ranks,)
        How many items are retrieved.
    precision : ndarray of shape (n_ranks,)
        Share of them that have the query's label: `metrics.precision_at_k`.
    recall : ndarray of shape (n_ranks,)
        Share of the items of that label which are among them: `metrics.recall_at_k`.
    name : str, default=None
        Name of the searcher in the legend.

    Attributes
    ----------
    precision_line_, recall_line_ : matplotlib Line2D
        The two curves.
    ax_ : matplotlib Axes
        Axes with them.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    metrics.precision_at_k : Precision at one rank.
    metrics.recall_at_k : Recall at one rank.
    RetrievalDisplay : A few queries as pictures.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.metrics import pairwise_distances
    >>> from skdpq import DPQNeighbors, DPQTransformer, RetrievalCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> dpq = DPQTransformer(M=4, K=16, max_iter=10, random_state=0)
    >>> neighbors = DPQNeighbors(quantizer=dpq).fit(X[:1500], y[:1500])
    >>> display = RetrievalCurveDisplay.from_estimator(neighbors, X[1500:], y[1500:], name="DPQ")
    >>> exact = pairwise_distances(X[1500:], X[:1500])
    >>> RetrievalCurveDisplay.from_predictions(y[1500:], y[:1500], exact, name="exact", ax=display.ax_)
    <...>
    """

    precision_line_: Any
    recall_line_: Any
    ax_: "Axes"
    figure_: "Figure"

    def __init__(
        self,
        ranks: NDArray[np.intp],
        precision: NDArray[np.float64],
        recall: NDArray[np.float64],
        *,
        name: str | None = None,
    ) -> None:
        self.ranks = ranks
        self.precision = precision
        self.recall = recall
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        k: int | None = None,
        name: str | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Measure a fitted index by labelled queries, and draw the curves.

        Parameters
        ----------
        estimator : DPQNeighbors or Pipeline
            As in `metrics.score_neighbors`.
        X : array-like of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their labels.
        k : int, default=None
            The last rank. By default the number of items.
        name : str, default=None
            Name in the legend. That of the estimator's class if None.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : RetrievalCurveDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator is not an index of codes, or `k` no integer.
        ValueError
            If an item of the index has no label, X and y do not match, or `k` is out of range.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        curve = curve_of_neighbors(estimator, X, y, k)
        return cls(*curve, name=type(estimator).__name__ if name is None else name).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        y_database: ArrayLike,
        distances: ArrayLike,
        *,
        k: int | None = None,
        name: str | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Measure rankings by any distances, and draw the curves.

        Parameters
        ----------
        y : array-like of shape (n_queries,)
            Labels of the queries.
        y_database : array-like of shape (n_database,)
            Labels of the items that are ranked.
        distances : array-like of shape (n_queries, n_database)
            Distances of every item to every query; ties count as their mean, as in `skdpq.metrics`.
        k : int, default=None
            The last rank. By default the number of items.
        name : str, default=None
            Name in the legend.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : RetrievalCurveDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `k` is not an integer.
        ValueError
            If lengths do not match, an input is empty or has NaN, strings are to be matched with numbers, or `k` is
            out of range.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        return cls(*curve_of_distances(y, y_database, distances, k), name=name).plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. By default those of a new figure.
        name : str, default=None
            Name in the legend, instead of that of the display.
        **kwargs : dict
            Properties of both lines, such as ``color="black"``.

        Returns
        -------
        display : RetrievalCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = _axes(self, ax)
        name = self.name if name is None else name
        prefix = "" if name is None else f"{name}: "
        (self.precision_line_,) = ax.plot(self.ranks, self.precision, **{"label": f"{prefix}precision", **kwargs})
        style = {"color": self.precision_line_.get_color(), "linestyle": "--", "label": f"{prefix}recall"}
        (self.recall_line_,) = ax.plot(self.ranks, self.recall, **{**style, **kwargs})
        ax.set(xscale="log", xlabel="Items retrieved", ylabel="Precision, recall", ylim=(-0.02, 1.02))
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class CodebookUsageDisplay:
    """How often each codeword is chosen, a row for each part, with the part's perplexity.

    Perplexity is the exponential of the entropy of the choices: K where all codewords are chosen equally often, 1 where
    one takes all. It is made by `from_estimator` or `from_predictions`. All parameters are kept as attributes.

    Parameters
    ----------
    usage : ndarray of shape (M, K)
        Share of the samples that have each codeword of each part.

    Attributes
    ----------
    perplexity : ndarray of shape (M,)
        Perplexity of each part.
    image_ : matplotlib AxesImage
        Shares of each part in descending order, times K.
    ax_ : matplotlib Axes
        Axes with it.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    DPQTransformer : Its `gini_batch_weight` evens out the use.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import CodebookUsageDisplay, ProductQuantizer
    >>> X, _ = load_digits(return_X_y=True)
    >>> pq = ProductQuantizer(M=4, K=16, random_state=0).fit(X)
    >>> display = CodebookUsageDisplay.from_estimator(pq, X)
    >>> bool((display.perplexity > 10).all())  # of 16
    True
    """

    image_: Any
    ax_: "Axes"
    figure_: "Figure"

    def __init__(self, usage: NDArray[np.float64]) -> None:
        self.usage = usage

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """Perplexity of each part, (M,) float64."""
        logarithms = np.log(self.usage, out=np.zeros_like(self.usage), where=self.usage > 0)
        return np.exp(-(self.usage * logarithms).sum(axis=1))

    @classmethod
    def from_estimator(cls, estimator: Any, X: ArrayLike | None = None, *, ax: "Axes | None" = None) -> Self:
        """Count the codewords of samples, or of a database, and draw their shares.

        Parameters
        ----------
        estimator : DPQTransformer, DPQClassifier, ProductQuantizer or DPQNeighbors
            Fitted.
        X : array-like of shape (n_samples, n_features), default=None
            Samples. By default the items of a `DPQNeighbors`.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : CodebookUsageDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If there are no samples.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        quantizer = getattr(estimator, "quantizer_", estimator)
        if X is None and not hasattr(estimator, "codes_"):
            raise ValueError(f"Expected samples with a {type(estimator).__name__}, which keeps no codes, got X=None.")
        codes = estimator.codes_ if X is None else quantizer.encode(X)
        return cls.from_predictions(codes, K=quantizer.codebooks_.shape[1], ax=ax)

    @classmethod
    def from_predictions(cls, codes: ArrayLike, *, K: int | None = None, ax: "Axes | None" = None) -> Self:
        """Count the codewords of codes, and draw their shares.

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.
        K : int, default=None
            Number of codewords a part. By default the largest code plus one.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : CodebookUsageDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `K` is not an integer.
        ValueError
            If there are no codes, or they are out of range.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        codes = check_array(as_array(codes), dtype=None, input_name="codes")
        if K is not None:
            check_scalar(K, "K", Integral, min_val=1, max_val=_LARGEST_K)
        codes = check_codes(codes, codes.shape[1], _LARGEST_K if K is None else K)
        K = int(codes.max()) + 1 if K is None else K
        counts = np.stack([np.bincount(part, minlength=K) for part in codes.T])
        return cls(counts / len(codes)).plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the shares.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. By default those of a new figure.
        **kwargs : dict
            Passed to `imshow`, such as ``cmap="magma"``.

        Returns
        -------
        display : CodebookUsageDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = _axes(self, ax)
        M, K = self.usage.shape
        relative = np.sort(self.usage, axis=1)[:, ::-1] * K
        style = {"cmap": "viridis", "vmin": 0, "aspect": "auto", "interpolation": "nearest"}
        self.image_ = ax.imshow(relative, **{**style, **kwargs})
        labels = [f"{m}: {perplexity:.1f}" for m, perplexity in enumerate(self.perplexity)]
        ax.set(
            xlabel=f"{K} codewords, the most used first", ylabel="part: perplexity", yticks=range(M), yticklabels=labels
        )
        ax.figure.colorbar(self.image_, ax=ax, label="use; 1 if all are used equally")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LossCurveDisplay:
    """The objective and its terms after each epoch, and the validation scores if there are any.

    It is made by `from_estimator`. There are no predictions to make it from; where the curves come from elsewhere, give
    them to the constructor, and call `plot`. All parameters are kept as attributes.

    Parameters
    ----------
    loss_curve : dict of str to sequence of float
        Value of each term after each epoch, and of the objective as "loss".
    validation_scores : sequence of float, default=None
        Accuracy on validation data after each epoch.

    Attributes
    ----------
    lines_ : dict of str to matplotlib Line2D
        Curves of the terms that are not zero throughout, and "validation".
    ax_ : matplotlib Axes
        Axes with the loss.
    ax_validation_ : matplotlib Axes or None
        Axes with the validation scores, on the scale at the right.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    DPQTransformer : Its `loss_curve_` tells what the terms are.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import DPQClassifier, LossCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> dpq = DPQClassifier(M=4, K=16, max_iter=5, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(dpq)
    >>> list(display.lines_)
    ['loss', 'softmax_soft', 'softmax_hard', 'joint_central', 'gini_batch', 'gini_sample']
    """

    lines_: dict[str, Any]
    ax_: "Axes"
    ax_validation_: "Axes | None"
    figure_: "Figure"

    def __init__(
        self, loss_curve: Mapping[str, Sequence[float]], *, validation_scores: Sequence[float] | None = None
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: "Axes | None" = None) -> Self:
        """Draw the curves that a fit has left.

        Parameters
        ----------
        estimator : DPQTransformer or DPQClassifier
            Fitted. Of a `DPQNeighbors`, give `quantizer_`.
        ax : matplotlib Axes, default=None
            As in `plot`.

        Returns
        -------
        display : LossCurveDisplay
            What was drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator has no loss curve.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if not isinstance(getattr(estimator, "loss_curve_", None), Mapping):
            raise TypeError(f"Expected a DPQTransformer or DPQClassifier, got {estimator!r}.")
        return cls(estimator.loss_curve_, validation_scores=estimator.validation_scores_).plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. By default those of a new figure.
        **kwargs : dict
            Properties of all lines of the loss, such as ``alpha=0.5``.

        Returns
        -------
        display : LossCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = _axes(self, ax)
        self.lines_ = {}
        for term, values in self.loss_curve.items():
            if np.any(values):  # those that supervision leaves out are zero throughout
                style = {"color": "black", "linewidth": 2.5} if term == "loss" else {}
                epochs = np.arange(1, len(values) + 1)
                (self.lines_[term],) = ax.plot(epochs, values, **{"label": term, **style, **kwargs})
        ax.set(xlabel="Epoch", ylabel="Loss")
        self.ax_, self.figure_, self.ax_validation_ = ax, ax.figure, None
        if self.validation_scores is not None:
            self.ax_validation_ = ax.twinx()
            epochs = np.arange(1, len(self.validation_scores) + 1)
            (self.lines_["validation"],) = self.ax_validation_.plot(
                epochs, self.validation_scores, color="dimgray", linestyle="--", label="validation"
            )
            self.ax_validation_.set(ylabel="Validation accuracy")
        ax.xaxis.get_major_locator().set_params(integer=True)
        (self.ax_validation_ or ax).legend(handles=list(self.lines_.values()), loc="center right")  # on top of both
        return self
