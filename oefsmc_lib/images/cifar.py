"""CIFAR-10 and CIFAR-100 by torchvision, which knows the published files, their address and their checksums.

The files are pickles, and reading a pickle may run any code. torchvision compares the MD5 of every file with the
published one before it opens it (``_check_integrity``), so nothing but the published files is ever unpickled.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from oefsmc_lib.errors import InputError
from oefsmc_lib.images.npz import SPLITS, Arrays, first_line


def read(name: str, root: Path) -> Arrays:
    """Both splits from torchvision's folder in ``root``, or else from its archive there, which is left packed.

    Raises :class:`InputError` when a file is missing or is not the published one.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, extract_archive

    reader = getattr(datasets, name.upper())  # CIFAR10 or CIFAR100
    place, archive = root / reader.base_folder, root / reader.filename
    with TemporaryDirectory() as scratch:
        if not place.is_dir():
            if not check_integrity(archive, reader.tgz_md5):
                raise InputError(f"{archive} is not the published archive of {name}; delete it and get it again.")
            extract_archive(archive, scratch)
            root = Path(scratch)
        try:
            parts = {split: reader(root, train=split == "train") for split in SPLITS}
        except RuntimeError as error:
            raise InputError(
                f"{place} does not hold the published files of {name}; delete it and get it again."
            ) from error
    images = {f"x_{split}": np.ascontiguousarray(part.data) for split, part in parts.items()}
    return images | {f"y_{split}": np.array(part.targets, np.int64) for split, part in parts.items()}


def download(name: str, root: Path) -> None:
    """Download and unpack the published files; :class:`InputError` says what to do where that fails."""
    from torchvision import datasets

    reader = getattr(datasets, name.upper())
    try:
        reader(root, download=True)
    except (OSError, RuntimeError) as error:  # no network, a proxy's page, a full disk
        raise InputError(
            f"{name} could not be downloaded ({first_line(error)}); put {reader.filename} in {root} by other means."
        ) from error
