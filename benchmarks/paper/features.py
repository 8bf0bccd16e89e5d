"""A file of features for the other benchmarks: the 500 units of the paper's base network, trained on CIFAR-10.

    python benchmarks/paper/features.py features.npz --data cifar10.zip --cache cache
    python benchmarks/paper/features.py features.npz --data cifar10.zip --cache cache --epochs 100

Trained for 100 epochs, the network is that of Table 1. The file holds X_train, y_train, X_test and y_test, in float16,
and the units of images that look like none of CIFAR-10's: scikit-learn's digits (X_digits, y_digits), and the capital
letters that `quality/rivals.py` draws (X_letters, y_letters).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))

import numpy as np
from _common import machine, make_parser
from images import N_EPOCHS_UNSEEN, accuracy, base_network, load_split, units
from PIL import Image
from rivals import SIZE, draw_letters
from sklearn.datasets import load_digits


def as_images(pixels, size):
    """Return images (n, 3, 32, 32), uint8, of grey ones whose pixels are rows of values from 0 to 1."""
    grey = np.uint8(255 * pixels.clip(0, 1)).reshape(-1, size, size)
    large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in grey]
    return np.repeat(np.stack(large)[:, None], 3, axis=1)


def main():
    """Train the network, and write the file."""
    parser = make_parser(__doc__)
    parser.add_argument("features", help="the .npz file to write")
    parser.add_argument("--data", required=True, help="a folder or zip file of train/<class>/* and test/<class>/*")
    parser.add_argument("--cache", default="cache", help="a folder, where trained networks are kept")
    parser.add_argument("--epochs", type=int, default=N_EPOCHS_UNSEEN)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, test = load_split(options.data, validation=False)
    network, classifier = base_network(train, options.cache, options.seed, n_epochs=options.epochs)
    digits, y_digits = load_digits(return_X_y=True)
    letters, y_letters = draw_letters(options.seed)
    images = {
        "train": train,
        "test": test,
        "digits": (as_images(digits / 16, 8), y_digits),
        "letters": (as_images(letters, SIZE), y_letters),
    }
    arrays = {f"X_{name}": units(network, X).astype(np.float16) for name, (X, _) in images.items()}
    np.savez_compressed(options.features, **arrays, **{f"y_{name}": y for name, (_, y) in images.items()})
    print(machine())
    print(f"accuracy of the network on test images: {accuracy(classifier, units(network, test[0]), test[1]):.4f}")


if __name__ == "__main__":
    main()
