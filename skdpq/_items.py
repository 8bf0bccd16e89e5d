"""Items: what a database holds, as one value: codes with ids, the names that ids may have, and labels.

`DPQNeighbors` makes one of its attributes and keeps what `add` and `remove` return. Items never change. The index knows
them by numbers; where they have names, those are the ids that users see, else the numbers are.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import as_array
from ._codes import check_codes
from ._labels import append_labels, check_stored, positions
from ._names import Names, as_names, check_names, extend, numbers_of
from ._search.index import CodeIndex, check_new_ids


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a database.

    Attributes
    ----------
    index : CodeIndex
        Their codes and numbers.
    names : Names or None
        Their ids where these are strings.
    classes : ndarray of shape (n_classes,) or None
        Labels, ascending, where there are any.
    labels : ndarray of shape (n,) or None
        The label of each item as an index into `classes`, -1 for one that has none.
    """

    index: CodeIndex
    names: Names | None = None
    classes: NDArray[Any] | None = None
    labels: NDArray[np.integer[Any]] | None = None

    @property
    def ids(self):
        """Ids as users see them, ascending or in the order of addition: (n,) int64 or str."""
        return self.named(self.index.ids)

    def named(self, numbers):
        """Return the ids of items, of any shape, as users see them."""
        return numbers if self.names is None else self.names.at(numbers)

    def numbers(self, ids):
        """Return ids, of any shape, as the index numbers them; ValueError where they are not of the database's kind."""
        return numbers_of(self.names, ids)

    def has(self, item_id):
        """Return whether an id, which may be anything, is that of an item."""
        if self.names is not None:
            return isinstance(item_id, str) and self.names.find(np.array([item_id], dtype=object))[0] >= 0
        return isinstance(item_id, Integral) and self.index.has(int(item_id))

    def codes_of(self, ids):
        """Return the codes of items, of the shape of ids and (M,); ValueError where one is not of the database."""
        numbers = self.numbers(ids)
        codes = self.index.codes_of(numbers.ravel())
        return codes.reshape(*numbers.shape, codes.shape[1])

    def labels_of(self, ids):
        """Return the labels of items, of the shape of ids; ValueError where one has none, or is not of the database."""
        if self.labels is None:
            raise ValueError("Expected a database with labels, got one made without y. Give y to fit.")
        labels = self.labels[positions(self.index.ids, self.numbers(ids))]
        if (labels < 0).any():
            raise ValueError(
                f"Expected ids of items with labels, got {np.asarray(ids)[labels < 0][:5].tolist()} without."
            )
        return self.classes[labels]

    def columns_of(self, numbers):
        """Return where items stand in the order of `ids`, by their numbers."""
        known = self.index.ids
        return numbers if len(known) == 0 or known[-1] == len(known) - 1 else np.searchsorted(known, numbers)

    def allowed(self, among):
        """Return what is to be searched, a mask or ids or None, as the index takes it."""
        among = as_array(among)
        is_mask = among is None or np.asarray(among).dtype == bool
        return among if is_mask else self.numbers(among)

    def add(self, codes, y=None, ids=None):
        """Return items with others added.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
            Their codes.
        y : array-like of shape (n_new,), default=None
            Their labels.
        ids : array-like of shape (n_new,), default=None
            Their ids; integers by default continue the largest that was given.

        Returns
        -------
        items : Items
            With them; these stay as they are.

        Raises
        ------
        ValueError
            If the codes do not fit the codebooks, the ids are not new or of another kind, or y is not their labels.
        """
        codes = check_codes(codes, *self.index.codebooks.shape[:2])
        names, ids = extend(self.names, ids, self.index.next_id, len(codes))
        ids = None if ids is None else np.asarray(ids)
        index = self.index.add(codes, ids)
        classes, labels = self.classes, self.labels
        if y is not None or labels is not None:
            labels = np.full(len(self.index), -1) if labels is None else labels
            classes, labels = append_labels(classes, labels, y, len(codes))
            if ids is not None:  # by default new ids come last, as new labels do
                labels = labels[np.argsort(np.concatenate((self.index.ids, ids.astype(np.int64))))]
        return Items(index, names, classes, labels)

    def remove(self, ids):
        """Return items without those of some ids, (n_removed,); ValueError where one is not of the database."""
        index, names, labels = self.index.remove(self.numbers(ids)), self.names, self.labels
        if names is not None or labels is not None:
            kept = np.isin(self.index.ids, index.ids)
        if labels is not None:
            labels = labels[kept]
        if names is not None:
            index, names = index.renumbered(kept), names.keep(kept)
        return Items(index, names, self.classes, labels)

    def check(self, thorough):
        """Raise ValueError unless names and labels are those of the index; `thorough` looks at each name."""
        if self.names is not None:
            self.names.check(len(self.index), thorough)
            if self.index.next_id != len(self.index):
                raise ValueError(f"expected items numbered to {len(self.index)}, got {self.index.next_id}.")
        if self.labels is not None or self.classes is not None:
            check_stored(self.classes, self.labels, len(self.index))


def check_ids(ids, n):
    """Raise ValueError unless ids are n new ones that differ, before anything is learned or encoded."""
    names = as_names(ids)
    check_new_ids(ids, n) if names is None else check_names(names, n)
