"""What DPQNeighbors stores: codes, their ids and their labels, and how they are made, added and removed."""

from contextlib import contextmanager, nullcontext

import numpy as np
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Bunch, _safe_indexing, check_array, column_or_1d, gen_batches
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data

from ._device import search_device
from ._search.index import CodeIndex
from .product_quantizer import ProductQuantizer

_BLOCK = 16384  # samples encoded at a time where callbacks watch


class DatabaseMixin(CallbackSupportMixin):
    """The database of a neighbour search, with `quantizer_` and `index_` fitted."""

    @with_callbacks
    def _fit(self, X, y, fit_params):
        context = self._init_callback_context(max_subtasks=3)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)

        @contextmanager
        def task(name, parent=context, max_subtasks=0):
            subcontext = parent.subcontext(task_name=name, max_subtasks=max_subtasks)
            subcontext.call_on_fit_task_begin(estimator=self, X=X, y=y)
            yield subcontext
            subcontext.call_on_fit_task_end(estimator=self, X=X, y=y)

        search_device(self.device)  # raises before the quantizer is fitted rather than at the first search
        validate_data(self, X, skip_check_array=True)
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **fit_params).quantizer.fit
        else:
            params = Bunch(**fit_params)
        self.quantizer_ = clone(self._quantizer(y))
        with task("fit quantizer") as subcontext:
            supports_callbacks = hasattr(self.quantizer_, "set_callbacks")
            propagate = subcontext.propagate_callback_context if supports_callbacks else nullcontext
            with propagate(self.quantizer_):
                self.quantizer_.fit(X, y, **params)
        # Unwatched, the quantizer encodes X as it likes to. The index takes all codes at once in any case, as adding
        # them in blocks would sort them again and again, and leave several segments to search.
        watched = hasattr(self, "_skl_callbacks") and not issparse(X)
        blocks = list(gen_batches(_num_samples(X), _BLOCK)) if watched else []
        large = len(blocks) > 1
        with task("encode", max_subtasks=len(blocks) if large else 0) as encoding:
            if large:
                codes = []
                for block in blocks:
                    with task("block", encoding):
                        codes.append(self.quantizer_.encode(_safe_indexing(X, block)))
                codes = np.concatenate(codes)
            else:
                codes = self.quantizer_.encode(X)
        with task("index", max_subtasks=None if large else 0):  # None: unknown, which ProgressBar shows too
            self._store(CodeIndex(self.quantizer_.codebooks_).add(codes), y)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)

    def _quantizer(self, y):
        if self.quantizer is not None:
            return self.quantizer
        if y is None:
            return ProductQuantizer(random_state=self.random_state)
        from .transformer import DPQTransformer  # imports torch, which searching does without

        return DPQTransformer(random_state=self.random_state)

    def _store(self, index, y):
        self.index_ = index
        for name in ("classes_", "labels_"):
            self.__dict__.pop(name, None)
        if y is not None:
            self.classes_, self.labels_ = np.unique(_check_labels(y, len(index)), return_inverse=True)

    def add(self, X, ids=None, y=None):
        """Add samples to the database.

        Parameters
        ----------
        X : array-like of shape (n_new, n_features), or whatever the quantizer takes
            Samples; encoded by the quantizer, which is not fitted again.
        ids : array-like of shape (n_new,), default=None
            Non-negative integers that are not in the database. By default they continue the largest that was given.
        y : array-like of shape (n_new,), default=None
            Labels. `score` needs one for each item of the database.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X, ids or y are invalid.
        """
        check_is_fitted(self)
        self._check_samples(X)
        return self.add_codes(self.quantizer_.encode(X), ids=ids, y=y)

    def add_codes(self, codes, ids=None, y=None):
        """Add codes to the database.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
            Integers in ``range(K)``.
        ids : array-like of shape (n_new,), default=None
            As in `add`.
        y : array-like of shape (n_new,), default=None
            As in `add`.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If codes, ids or y are invalid.
        """
        check_is_fitted(self)
        n_old, n_new = len(self.index_), _num_samples(codes)
        classes, labels = getattr(self, "classes_", None), None
        if y is not None:
            y = _check_labels(y, n_new)
            if classes is None:
                classes, old = np.unique(y), np.full(n_old, -1)
            elif _is_text(y) != _is_text(classes):
                raise ValueError(f"Expected labels of the kind of {classes.dtype}, as in the database, got {y.dtype}.")
            else:
                merged, old = np.union1d(classes, y), self.labels_
                if len(merged) > len(classes):
                    old = np.where(old < 0, -1, np.searchsorted(merged, classes)[old])
                classes = merged
            labels = np.concatenate((old, np.searchsorted(classes, y)))
        elif classes is not None:
            labels = np.concatenate((self.labels_, np.full(n_new, -1)))
        old_ids = None if ids is None or labels is None else self.ids_  # ids given by default come last
        self.index_ = self.index_.add(codes, ids)
        if labels is not None:
            if old_ids is not None:
                labels = labels[np.argsort(np.concatenate((old_ids, np.asarray(ids, dtype=np.int64))))]
            self.classes_, self.labels_ = classes, labels
        return self

    def remove(self, ids):
        """Remove items from the database.

        Parameters
        ----------
        ids : array-like of shape (n_removed,)
            Ids of the database. The other items keep theirs.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an id is not in the database.
        """
        check_is_fitted(self)
        old_ids = self.ids_ if hasattr(self, "labels_") else None
        self.index_ = self.index_.remove(ids)
        if old_ids is not None:
            self.labels_ = self.labels_[np.isin(old_ids, ids, invert=True)]
        return self

    @property
    def codes_(self):
        """Codes of the database."""
        return self._fitted_index().codes

    @property
    def ids_(self):
        """Ids of the database, ascending."""
        return self._fitted_index().ids

    @property
    def n_samples_fit_(self):
        """Number of items in the database."""
        return len(self._fitted_index())

    def _fitted_index(self):
        check_is_fitted(self, "index_")
        return self.index_


def _check_labels(y, n_samples):
    y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, ensure_min_samples=0, input_name="y")
    if len(y) != n_samples:
        raise ValueError(f"Expected one label for each of {n_samples} samples, got {len(y)}.")
    return y


def _is_text(labels):
    """Tell whether labels are strings: NumPy would turn numbers among them into strings without a word."""
    return labels.dtype.kind in "STU" or (labels.dtype.kind == "O" and any(isinstance(i, str | bytes) for i in labels))
