"""Writing a challenge's phantoms as it publishes its cases, or as the platform gives them.

Data set, as the challenge's ``[data_set]`` says: ``segrap_0007/image.nii.gz``,
``image_contrast.nii.gz`` and ``Brain.nii.gz`` …, or ``7/data.nii.gz`` and
``label.nii.gz``. Platform: ``images/<slug>/<case><suffix>.mha`` and
``truth/<case>/label.nrrd``, whose labels exclude each other.

Where the data set's cases may be labelled in part, a file of zeros says that the organ is
not there, and no file that nobody has looked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oarseg.challenges.challenge import Challenge, Organ, Socket
from oarseg.imaging.volume import Volume
from oarseg.phantom.files import save
from oarseg.phantom.profile import ProfileCase


def case_name(challenge: Challenge, seed: int) -> str:
    """The data set's name of case number ``seed``."""
    return f"{challenge.case_prefix}{seed:0{challenge.data_set.digits}d}"


def write_published(
    out: Path, challenge: Challenge, case: ProfileCase, *, share: float = 1.0
) -> Path:
    """Write a case in the data set's layout; returns its folder.

    Args:
        out: the data set's root.
        challenge: tells the layout.
        case: images and labels.
        share: of the organs that are labelled, drawn anew for each case; for data sets
            of one mask an organ.
    """
    name = case_name(challenge, case.truth.seed)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    how = challenge.data_set
    for socket in challenge.sockets:
        if socket.channel in case.images:
            stem = socket.file or name + _suffix(socket)
            save(case.images[socket.channel], folder / f"{stem}{how.ending}")
    if how.labels == "map":
        save(case.labels, folder / how.map)
        return folder
    labelled = _labelled(challenge, case.truth.seed, share)
    for organ in challenge.organs:
        file = folder / how.mask.replace("{case}", name).replace("{structure}", organ.name)
        told = how.missing_mask == "unknown" or case.truth.presence[organ.name] > 0
        if organ in labelled and told:
            save(_mask(case.labels, organ), file)
        else:
            file.unlink(missing_ok=True)
    return folder


def write_platform(out: Path, challenge: Challenge, case: ProfileCase) -> Path:
    """Write a case as the platform gives it, its truth beside; returns the truth's folder."""
    name = case_name(challenge, case.truth.seed)
    for socket in challenge.sockets:
        if socket.channel in case.images:
            folder = out / "images" / socket.slug
            folder.mkdir(parents=True, exist_ok=True)
            save(case.images[socket.channel], folder / f"{name}{_suffix(socket)}.mha")
    truth = out / "truth" / name
    truth.mkdir(parents=True, exist_ok=True)
    save(case.labels, truth / "label.nrrd")
    return truth


def _suffix(socket: Socket) -> str:
    return socket.suffixes[0] if socket.suffixes else f"_{socket.channel}"


def _mask(labels: Volume, organ: Organ) -> Volume:
    return labels.with_array(np.isin(labels.array, organ.labels).view(np.uint8))


def _labelled(challenge: Challenge, seed: int, share: float) -> list[Organ]:
    """The organs that somebody has labelled in a case; one at least."""
    organs = list(challenge.organs)
    if share >= 1.0:
        return organs
    rng = np.random.default_rng(np.random.SeedSequence([seed, 61]))
    chosen = rng.random(len(organs)) < share
    chosen[int(rng.integers(len(organs)))] = True
    return [organ for organ, kept in zip(organs, chosen, strict=True) if kept]
