"""The searching wing: look-up tables (sections 3.1.2 to 3.1.4) and exact search over codes, by NumPy and Numba.

`DPQNeighbors` calls it; it imports nothing of the learning wing, and torch in `scan_torch` alone. The squared distance
of an item is the float32 sum of its code's table entries in the order of the parts, and results come in the order of
(distance, id), bit for bit, however they are found. By relevance (`relevance`) the distance is another, and all else
is the same.
"""
