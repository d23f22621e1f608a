"""Every way to protect a face that ``benchmarks.efficacy peers`` measures: whose it is, and how it is had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.data import prepared_pack

from .base import Attack, Clean, UnbuildableError
from .stage_one import StageOne, load_stage_one
from .surrogates import Surrogates

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass
class Means:
    """What attacks are made of.

    Attributes:
        run: a training run's folder, for its stage-1 networks; None where there is none.
        pack: a pack of aligned training faces; None where there is none.
        folder: where trained attacks are kept.
        training: fields of ``advfaces_training.Training`` to set.
    """

    surrogates: Surrogates
    run: Path | None
    pack: Path | None
    folder: Path
    training: dict[str, Any]
    progress: Progress = iter

    @cached_property
    def stage_one(self) -> StageOne:
        """The run's stage-1 networks.

        Raises:
            UnbuildableError: no run was given.
            ValueError: its faces have another size than the bundle's.
        """
        if self.run is None:
            raise UnbuildableError(
                "needs the stage-1 networks of a training run, which was not given (--run)"
            )
        return load_stage_one(self.run, crop_px=self.surrogates.crop_px)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One row.

    Attributes:
        differs: how this rebuilding differs from its paper.
        make: the attack, or None where it is the bundle's own network.

    ``make`` raises ``UnbuildableError`` with the reason where the attack cannot be had.
    """

    name: str
    paper: str
    differs: str
    make: Callable[[Means], Attack | None]


def _gradient(method: str, levels: float, steps: int, step_levels: float) -> Callable[[Means], Attack]:
    def make(means: Means) -> Attack:
        try:
            from .gradient import GradientAttack
        except ImportError as error:
            raise ValueError(
                f"{method} needs foolbox ({error}); run: pip install 'erasablemask[bench]'"
            ) from error
        return GradientAttack(
            surrogates=means.surrogates, method=method, levels=levels, steps=steps, step_levels=step_levels
        )

    return make


def _sibling(means: Means) -> Attack:
    from .sibling import SiblingAttack

    return SiblingAttack(surrogates=means.surrogates, stage_one=means.stage_one)


def _semantic(means: Means) -> Attack:
    from .semantic import SemanticAdv

    return SemanticAdv(surrogates=means.surrogates, stage_one=means.stage_one)


def _manifold(means: Means) -> Attack:
    from .manifold import ManifoldAttack

    return ManifoldAttack(surrogates=means.surrogates, stage_one=means.stage_one)


def _cloak(means: Means) -> Attack:
    from .cloak import Cloak

    return Cloak(surrogates=means.surrogates)


def _advfaces(means: Means) -> Attack:
    from .advfaces_training import Training, train

    if means.pack is None:
        raise UnbuildableError("needs aligned training faces, which were not given (--pack)")
    surrogates = means.surrogates
    return train(
        prepared_pack(means.pack, surrogates.crop_px),
        surrogates,
        means.folder / "advfaces.pt",
        about={
            "pack": means.pack.name,
            "surrogates": surrogates.names,
            "target_sha256": surrogates.target_sha256,
        },
        settings=Training(**means.training),
        progress=means.progress,
    )


_ENSEMBLE = "Towards the mean of three recognisers' cosines to the target, not away from a class."
_DONG = "Dong et al.: Boosting Adversarial Attacks with Momentum, CVPR 2018"

PEERS = (
    Peer(
        name="clean",
        paper="nobody's",
        differs="Nothing is done; the file is saved as JPEG like all the others.",
        make=lambda means: Clean(),
    ),
    Peer(
        name="FGSM 4/255",
        paper="Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, ICLR 2015",
        differs=_ENSEMBLE,
        make=_gradient("FGSM", 4, 1, 4),
    ),
    Peer(
        name="PGD 4/255",
        paper="Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018",
        differs=_ENSEMBLE + " 20 steps of 1/255 from a random start.",
        make=_gradient("PGD", 4, 20, 1),
    ),
    Peer(
        name="MI-FGSM 4/255",
        paper=_DONG,
        differs=_ENSEMBLE,
        make=_gradient("MI-FGSM", 4, 10, 0.4),
    ),
    Peer(
        name="MI-FGSM 8/255",
        paper=_DONG,
        differs=_ENSEMBLE,
        make=_gradient("MI-FGSM", 8, 10, 0.8),
    ),
    Peer(
        name="TI-DIM 4/255",
        paper="Dong et al.: Evading Defenses to Transferable Adversarial Examples by Translation-Invariant "
        "Attacks, CVPR 2019, with Xie et al.: Improving Transferability of Adversarial Examples with Input "
        "Diversity, CVPR 2019",
        differs=_ENSEMBLE + " The kernel has 7 pixels, as much of a face of 128 as the paper's 15 of 299.",
        make=_gradient("TI-DIM", 4, 10, 0.4),
    ),
    Peer(
        name="Sibling-Attack",
        paper="Li et al.: Sibling-Attack: Rethinking Transferable Adversarial Attacks against Face "
        "Recognition, CVPR 2023",
        differs="The attribute model is the trained run's D_att (13 attributes), which shares no layers and "
        "no structure with the recognisers; three recognisers in place of IR-152; 20 rounds within 8/255 "
        "where the published code has 200 within 19/255.",
        make=_sibling,
    ),
    Peer(
        name="AdvFaces",
        paper="Deb, Zhang, Jain: AdvFaces: Adversarial Face Synthesis, IJCB 2020",
        differs="A quarter of the generator's channels and half of the discriminator's, far fewer steps, "
        "instance norm in every layer, CelebA in place of CASIA-WebFace, each face judged by one of three "
        "recognisers in place of FaceNet. The generator is not shown the target, for there is only one; the "
        "bound of the norm is the paper's for impersonation, at 128 px.",
        make=_advfaces,
    ),
    Peer(
        name="SemanticAdv",
        paper="Qiu et al.: SemanticAdv: Generating Adversarial Examples via Attribute-conditioned Image "
        "Editing, ECCV 2020",
        differs="Our stage-1 generator (AttGAN's structure) in place of StarGAN. Its encoder does not read "
        "attributes, so the maps that are mixed are its decoder's, behind the last layer that does. Of the "
        "seven attributes that both know, the one that helps each face most; 60 steps in place of 200.",
        make=_semantic,
    ),
    Peer(
        name="GMAA, per face",
        paper="Li et al.: Discrete Point-wise Attack Is Not Enough: Generalized Manifold Adversarial Attack "
        "for Face Recognition, CVPR 2023",
        differs="GMAA's idea without its generator: that one is a GAN trained on facial action units with "
        "four expression editors, none of which can be had here. One perturbation within 8/255 a face is "
        "optimised over states that our stage-1 generator edits (mouth, bangs, glasses, paleness), towards "
        "the target in the same states. No discriminator; the published face keeps its own state.",
        make=_manifold,
    ),
    Peer(
        name="Fawkes-like cloak",
        paper="Shan et al.: Fawkes: Protecting Privacy against Unauthorized Deep Learning Models, USENIX "
        "Security 2020",
        differs="The target is ours, not the most dissimilar of a pool of people; three recognisers as "
        "feature extractors; Adam for 60 steps; DSSIM is bounded on the aligned crop, not on the photo.",
        make=_cloak,
    ),
    Peer(
        name="ErasableMask",
        paper="this project",
        differs="The bundle as it is published, not rebuilt.",
        make=lambda means: None,
    ),
)
