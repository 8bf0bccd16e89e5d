"""CIFAR-10 images, the base network of the paper's section 4, and how it and DPQ are trained on them."""

import copy
import hashlib
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skdpq import DPQClassifier

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as device="auto" of the estimators
U = 500
SHIFT = 4  # pixels
N_EPOCHS, BATCH = 100, 250  # of the base network
UNSEEN = ((0, 1, 2), (3, 4, 5), (6, 7, 8))  # classes that are left out in training, to be searched for
N_EPOCHS_UNSEEN = 30
# DPQ and SUBIC first learn their own layers, and then train the base network on with them. On validation data a rate of
# 1e-4 or more undid some of what the base network had learned, and so did images that were augmented.
OWN = {"max_iter": 20, "learning_rate": 3e-3}
JOINT = {"max_iter": 3, "learning_rate": 2e-5}
# Of DPQ, as `tuning.py` found them on validation data: units of a base network are smooth already.
REGULARIZATION = {"weight_decay": 0.0, "label_smoothing": 0.02}


def load_images(path):
    """Read images from a folder or a zip file of `train/<class>/*` and `test/<class>/*`.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Images (n, 3, height, width), uint8, in an order that is random but always the same, and indices of classes.
    """
    path = Path(path)
    root = zipfile.Path(path) if path.suffix == ".zip" else path
    rng = np.random.default_rng(0)
    return *load_folder(root / "train", rng), *load_folder(root / "test", rng)


def load_folder(folder, rng, size=None):
    """Return the images of `<class>/*`, resized to `size` (width, height) if given, and their labels, shuffled."""
    images, labels = [], []
    for label, name in enumerate(sorted(child.name for child in folder.iterdir())):
        for file in sorted((folder / name).iterdir(), key=lambda file: file.name):
            image = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
            images.append(np.asarray(image if size is None else image.resize(size)))
            labels.append(label)
    order = rng.permutation(len(images))
    return np.stack(images).transpose(0, 3, 1, 2)[order], np.array(labels)[order]


def load_split(path, validation):
    """Return training and test images with their labels, two pairs; for validation, of the training images alone."""
    X, y, X_test, y_test = load_images(path)
    if not validation:
        return (X, y), (X_test, y_test)
    cut = len(X) * 9 // 10
    return (X[:cut], y[:cut]), (X[cut:], y[cut:])


class BaseNetwork(nn.Module):
    """The network of DSH (Liu et al., 2016), on which the paper's Table 1 builds, up to its layer of U = 500 units.

    Convolutions of 5 x 5 pixels to 32, 32 and 64 channels, each with a ReLU and a pooling of 3 x 3 pixels at a stride
    of 2 (the largest, then means), and a fully connected layer with a ReLU. In training, batch normalisation stands
    behind each convolution; `folded` multiplies it into the weights, which leaves the network of the paper.

    Parameters
    ----------
    mean, std : float
        Of the pixels of the training images, by which the input is standardised.
    """

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 32, 5, padding=2), nn.BatchNorm2d(32), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
            *(nn.Flatten(), nn.Linear(1024, U), nn.ReLU()),
        ).to(memory_format=torch.channels_last)

    def forward(self, x):
        """Return the units (B, 500) of images (B, 3, 32, 32) with values from 0 to 255."""
        x = ((x.float() - self.mean) / self.std).to(memory_format=torch.channels_last)
        # Half the time on CPUs with AVX-512 BF16, ten times as much on others; what is evaluated is float32.
        fast = x.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.training and fast):
            return self.layers(x).float()

    def folded(self):
        """Return the same function without batch normalisation, in evaluation mode."""
        network = BaseNetwork(self.mean, self.std).eval()
        layers = list(self.eval().layers)
        network.layers = nn.Sequential(
            *(
                fuse_conv_bn_eval(layer, after) if isinstance(layer, nn.Conv2d) else layer
                for layer, after in zip(layers, [*layers[1:], None], strict=True)
                if not isinstance(layer, nn.BatchNorm2d)
            )
        )
        return network


def augment(x):
    """Mirror half of the images x (B, 3, H, W), and move each by up to 4 pixels, repeating those at the border."""
    B, _, height, width = x.shape
    with x.device:
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2, B, 1))
        rows, columns = torch.arange(height) + down, torch.arange(width) + right
        columns = torch.where(torch.rand(B, 1) < 0.5, columns, columns.flip(1))
        images = torch.arange(B)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return x.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def train_base(
    X,
    y,
    *,
    seed,
    validation=None,
    n_epochs=N_EPOCHS,
    batch_size=BATCH,
    learning_rate=0.2,
    weight_decay=5e-4,
    dropout=0.3,
    label_smoothing=0.1,
):
    """Train a base network with the softmax loss alone; return it folded, and its linear classifier.

    Stochastic gradient descent with Nesterov's momentum; the learning rate rises over the first fifth of the epochs,
    and falls linearly to zero. With `validation`, a pair (X, y), its accuracy is printed every tenth epoch.
    """
    torch.manual_seed(seed)
    network = BaseNetwork(float(X.mean()), float(X.std())).to(DEVICE)
    classifier = nn.Linear(U, int(y.max()) + 1).to(DEVICE)
    parameters = [*network.parameters(), *classifier.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1]},
    ]
    optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, fused=True)
    X, y = torch.from_numpy(X).to(DEVICE), torch.from_numpy(y).to(DEVICE)
    n_batches = len(X) // batch_size
    step, n_steps = 0, n_epochs * n_batches
    for epoch in range(1, n_epochs + 1):
        start, total = time.perf_counter(), 0.0
        network.train()
        for batch in torch.randperm(len(X)).tensor_split(n_batches):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(5 * step / n_steps, 1.25 * (n_steps - step + 1) / n_steps)
            F = nn.functional.dropout(network(augment(X[batch])), dropout)
            loss = cross_entropy(classifier(F), y[batch], label_smoothing=label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        scored = ""
        if validation is not None and epoch % 10 == 0:
            scored = f", validation {accuracy(classifier, units(network, validation[0]), validation[1]):.4f}"
        print(f"epoch {epoch}: loss {total / n_batches:.4f}, {time.perf_counter() - start:.1f} s{scored}", flush=True)
    return network.cpu().folded(), classifier.cpu()


@torch.inference_mode()
def units(network, X):
    """Return the 500 units of images."""
    network = copy.deepcopy(network).to(DEVICE).eval()
    return torch.cat([network(x.to(DEVICE)).cpu() for x in torch.from_numpy(X).split(1000)]).numpy()


@torch.inference_mode()
def posterior(classifier, F):
    """Return the posterior that a base network's own classifier has of units F."""
    return torch.softmax(classifier(torch.from_numpy(F).to(classifier.weight.device)), 1).cpu().numpy()


def accuracy(classifier, F, y):
    """Return the accuracy of a base network's own classifier on units F."""
    return float((posterior(classifier, F).argmax(1) == y).mean())


def base_network(train, cache, seed, validation=None, n_epochs=N_EPOCHS):
    """Return the base network and its classifier, trained or from the cache."""
    labels = hashlib.sha256(train[1].astype("<i8").tobytes()).hexdigest()[:8]
    path = Path(cache) / f"base-{labels}-{n_epochs}-{seed}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train_base(*train, seed=seed, validation=validation, n_epochs=n_epochs), path)
    return torch.load(path, weights_only=False)


def without(data, classes):
    """Return data without some classes, the others counted anew, and the data of these classes."""
    X, y = data
    kept = ~np.isin(y, classes)
    return (X[kept], np.unique(y[kept], return_inverse=True)[1]), (X[~kept], y[~kept])


def from_classes(train, test, cache, seed):
    """Yield the experiments that search for classes that were left out, each with a base network of its own."""
    for classes in UNSEEN:
        source, _ = without(train, classes)
        network, _ = base_network(source, cache, seed, n_epochs=N_EPOCHS_UNSEEN)
        source, seen, unseen = ((units(network, X), y) for X, y in (source, *without(test, classes)))
        yield f"unseen {classes}", source, {"seen": seen, "unseen": unseen}


def fit_dpq(network, X, y, M, K, seed, jointly=True, **params):
    """Return a DPQClassifier of images that starts from a base network: its own layers first, then all jointly."""
    clf = DPQClassifier(
        M=M,
        K=K,
        hidden_layer_sizes=(),
        part_layer_sizes=(128,),
        backbone=network.requires_grad_(False),
        batch_size=BATCH,
        n_iter_no_change=100,
        random_state=seed,
        **REGULARIZATION | params,
    )
    clf.set_params(**OWN).fit(X, y)
    if jointly:
        clf.backbone_.requires_grad_(True)
        clf.set_params(warm_start=True, **JOINT).fit(X, y)
    return clf
