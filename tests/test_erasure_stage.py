"""Stage 3: what is restored, and who says how well."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny_training import CONFIG, SIZE, tiny_pack, tiny_recognizer, tiny_run
from training.batches import take
from training.config import SettingsError
from training.losses import erasure_loss, identity_loss, release_loss
from training.stages import ErasureStage
from training.stages.publish import Publish


def erasure_step(folder, **changes):
    """A step on six faces, of which each of three surrogates sees two: stage, batch, outputs, losses."""
    config = dataclasses.replace(CONFIG, realignment=0.03, **changes)
    run = tiny_run(folder, config)
    stage = run.stages[2]
    torch.manual_seed(1)
    batch = take(tiny_pack(), np.arange(6), np.zeros(6, dtype=bool))
    outputs = stage.forward(batch, 0)
    return stage, batch, outputs, stage._losses(outputs)


def test_recognisers_look_for_owner_and_target_where_the_face_has_moved_to(tmp_path):
    weights = {"erasure": 1.0, "identity": 1.0, "release": 1.0}
    stage, batch, outputs, losses = erasure_step(
        tmp_path, erasure=dataclasses.replace(CONFIG.erasure, weights=weights), release_margin=-0.5
    )
    identities, releases = [], []
    for i, (surrogate, target) in enumerate(zip(stage.surrogates, stage.targets, strict=True)):
        faces = slice(2 * i, 2 * i + 2)
        grid = surrogate.sampling_grid(outputs.landmarks[faces], SIZE)
        owner, restored = (
            surrogate(pictures[faces], grid) for pictures in (outputs.source, outputs.restored)
        )
        identities.append(identity_loss(restored, owner))
        releases.append(release_loss(restored, target, -0.5))
    torch.testing.assert_close(losses["identity"], torch.stack(identities).mean())
    torch.testing.assert_close(losses["release"], torch.stack(releases).mean())
    assert (outputs.landmarks - batch.landmarks).abs().max() > 0.1


def test_the_restorer_learns_from_what_the_noise_pool_leaves(tmp_path):
    """Eq. 16's x_adv is published as in use: attributes, strength and injection of the attack, realigned."""
    stage, batch, _, _ = erasure_step(tmp_path)
    stage.networks.generator.start_perturbation_from_encoder()
    for parameter in stage.networks.generator.perturbation_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    stage.realignment = 0.0
    stage.attack = dataclasses.replace(stage.attack, strength=0.3, injection=0.2, edit_share=0.0)
    stage.noise = lambda face, draws: face / 2
    outputs = stage.forward(batch, 0)
    with torch.no_grad():
        protected = stage.networks.generator(batch.face, batch.attributes, 0.3, 0.2)
    received = stage.publish(batch.face, protected) / 2
    torch.testing.assert_close(outputs.restored, stage.publish(received, stage.networks.restorer(received)))
    torch.testing.assert_close(outputs.source, batch.face)
    torch.testing.assert_close(stage._losses(outputs)["erasure"], erasure_loss(outputs.restored, batch.face))


@pytest.mark.parametrize("term", ["identity", "release"])
def test_what_recognisers_say_trains_the_restorer_alone(tmp_path, term):
    weights = {"erasure": 1.0, term: 1.0}
    stage, _, _, losses = erasure_step(
        tmp_path, erasure=dataclasses.replace(CONFIG.erasure, weights=weights), release_margin=-1.0
    )
    assert set(losses) == {"erasure", term}
    losses[term].backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in stage.networks.restorer.parameters())
    assert all(parameter.grad is None for parameter in stage.networks.generator.parameters())


def test_without_a_weight_pixels_alone_teach_the_restorer(tmp_path):
    """The paper's Eq. 16."""
    stage, _, _, losses = erasure_step(
        tmp_path, erasure=dataclasses.replace(CONFIG.erasure, weights={"erasure": 1.0})
    )
    assert set(losses) == {"erasure"}
    assert stage.shares == 1


@pytest.mark.parametrize(("surrogates", "batch"), [(0, 4), (3, 2)])
def test_a_term_of_recognisers_needs_some_and_a_face_for_each(tmp_path, surrogates, batch):
    with pytest.raises(
        SettingsError,
        match=f"identity.*; expected 1 to {batch} surrogates to share a batch, found {surrogates}",
    ):
        ErasureStage(
            tiny_run(tmp_path).networks,
            dataclasses.replace(CONFIG.erasure, batch=batch),
            attack=CONFIG.attack_settings,
            noise=CONFIG.noise,
            publish=Publish(SIZE, masked=True),
            surrogates=[tiny_recognizer(i) for i in range(surrogates)],
        )
