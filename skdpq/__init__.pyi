from . import metrics
from .classifier import DPQClassifier
from .exchange import from_faiss, to_faiss
from .files import FileFormatError, load
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer
from .transformer import DPQTransformer

__all__ = [
    "DPQClassifier",
    "DPQNeighbors",
    "DPQTransformer",
    "FileFormatError",
    "ProductQuantizer",
    "from_faiss",
    "load",
    "metrics",
    "to_faiss",
]

__version__: str
