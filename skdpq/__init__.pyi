from . import metrics
from .classifier import DPQClassifier
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer
from .transformer import DPQTransformer

__all__ = ["DPQClassifier", "DPQNeighbors", "DPQTransformer", "ProductQuantizer", "metrics"]

__version__: str
