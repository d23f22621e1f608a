"""The anonymiser's stage on tiny networks: who is trained by what, fresh noise, and resuming."""

import dataclasses

import numpy as np
import pytest
import torch

from runtime.geometry import crop_mask
from tests.tiny_anonymiser import ANONYMISER, STEPS, anonymiser_run
from tests.tiny_training import CONFIG, SIZE, Silent, tiny_pack, tiny_run, weights_of
from training.batches import take
from training.checkpoint import CheckpointError, load_anonymiser, load_networks
from training.config import SettingsError
from training.losses import (
    identity_loss,
    reconstruction_loss,
    similarity_loss,
    stranger_loss,
    structure_loss,
    tone_loss,
)
from training.samples import anonymised_grid
from training.schedule import loss_weights


def with_settings(**changes):
    return dataclasses.replace(ANONYMISER, settings=dataclasses.replace(ANONYMISER.settings, **changes))


def one_step(folder, config=ANONYMISER, seed=1):
    """A forward pass over four faces, of which each of two surrogates sees two: stage, batch, outputs."""
    [stage] = anonymiser_run(folder, config).stages
    stage.modes()
    torch.manual_seed(seed)
    batch = take(tiny_pack(), np.arange(4), np.zeros(4, dtype=bool))
    return stage, batch, stage.forward(batch, 0)


def test_a_killed_run_continued_equals_an_uninterrupted_one(tmp_path):
    anonymiser_run(tmp_path / "whole").train(Silent())
    for _ in range(STEPS):  # killed after every single step
        anonymiser_run(tmp_path / "killed").train(Silent(), stop_after_steps=1)
    anonymiser_run(tmp_path / "killed").train(Silent())
    whole, killed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, rtol=0, atol=0, msg=name)


def test_both_players_learn_and_surrogates_and_front_end_stay(tmp_path):
    run = anonymiser_run(tmp_path)
    [stage] = run.stages
    watched = {
        "anonymiser": run.networks.anonymiser,
        "reconstructor": run.networks.reconstructor,
        **{surrogate.card.name: surrogate for surrogate in stage.surrogates},
    }

    def weights():
        return {name: [p.clone() for p in module.parameters()] for name, module in watched.items()}

    fine = run.networks.anonymiser.front_end.fine.clone()
    before = weights()
    run.train(Silent(), stop_after_steps=1)
    moved = {
        name
        for name, after in weights().items()
        if any(not torch.equal(a, b) for a, b in zip(after, before[name], strict=True))
    }
    assert moved == {"anonymiser", "reconstructor"}
    assert list(run.networks.anonymiser.front_end.parameters()) == []
    torch.testing.assert_close(run.networks.anonymiser.front_end.fine, fine, rtol=0, atol=0)


def test_each_player_lowers_its_own_losses_alone(tmp_path):
    stage, _, outputs = one_step(tmp_path)
    reconstructor, anonymiser = stage.players
    sum(reconstructor.losses(outputs).values()).backward(retain_graph=True)
    assert all(p.grad is None for p in anonymiser.parameters())
    assert all(p.grad is not None for p in reconstructor.parameters())
    for name in ("identity", "pair", "similarity", "tone"):
        config = with_settings(similarity_bound=-1.0, tone_bound=0.0)
        stage, _, outputs = one_step(tmp_path / name, config)
        stage.players[1].losses(outputs)[name].backward()
        gradients = [p.grad for p in stage.players[1].parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in gradients), name


def test_losses_are_those_of_the_table(tmp_path):
    """Each term worked out again from what was published and received."""
    config = with_settings(similarity_bound=-1.0, recovery_bound=-1.0, tone_bound=0.0, landmark_jitter=0.0)
    stage, batch, outputs = one_step(tmp_path, config)
    found = {**stage.players[0].losses(outputs), **stage.players[1].losses(outputs)}
    first, second = outputs.releases
    mask, face = stage.mask, batch.face
    identities, pairs, strangers = [], [], []
    for i, surrogate in enumerate(stage.surrogates):
        faces = slice(2 * i, 2 * i + 2)
        grid = surrogate.sampling_grid(batch.landmarks[faces], SIZE)
        owner, one, other = (surrogate(p[faces], grid) for p in (face, first.received, second.received))
        identities += [identity_loss(one, owner), identity_loss(other, owner)]
        strangers += [stranger_loss(one, owner, 0.3), stranger_loss(other, owner, 0.3)]
        pairs.append(identity_loss(one, other))
    restored = stage.networks.reconstructor(first.received)
    tones = [tone_loss(r.published, stage.publish(face, r.tone), 0.0) for r in (first, second)]
    alike = [similarity_loss(r.published, face, -1.0, mask) for r in (first, second)]
    expected = {
        "reconstruction": reconstruction_loss(restored, face),
        "structure": structure_loss(restored, face, mask),
        "identity": sum(identities) / 4,
        "pair": sum(pairs) / 2,
        "strangers": sum(strangers) / 4,
        "similarity": sum(alike) / 2,
        "tone": sum(tones) / 2,
        "recovery": similarity_loss(restored, face, -1.0, mask),
    }
    assert found.keys() == expected.keys() == ANONYMISER.anonymise.weights.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_noise_is_fresh_in_every_step_and_for_both_releases(tmp_path):
    _, _, outputs = one_step(tmp_path / "one")
    _, _, again = one_step(tmp_path / "same", seed=1)
    _, _, later = one_step(tmp_path / "later", seed=2)
    first, second = outputs.releases
    assert not torch.equal(first.tone, second.tone)
    assert not torch.equal(first.published, second.published)
    torch.testing.assert_close(again.releases[0].published, first.published, rtol=0, atol=0)
    assert not torch.equal(later.releases[0].tone, first.tone)


def test_the_face_is_published_as_the_runtime_replaces_it(tmp_path):
    """Through the mask of the whole crop: the source on the border, the painting inside."""
    stage, batch, outputs = one_step(tmp_path)
    torch.testing.assert_close(stage.mask, torch.from_numpy(crop_mask(SIZE)))
    published = outputs.releases[0].published
    torch.testing.assert_close(published[..., 0, :], batch.face[..., 0, :])
    inner = (..., slice(5, -5), slice(5, -5))
    assert (published[inner] - batch.face[inner]).abs().mean() > 0.1


def test_the_ablation_has_no_noise(tmp_path):
    network = dataclasses.replace(ANONYMISER.network, stochastic=False)
    _, _, outputs = one_step(tmp_path, dataclasses.replace(ANONYMISER, network=network))
    first, second = outputs.releases
    assert first.tone.abs().max() == 0
    torch.testing.assert_close(first.published, second.published, rtol=0, atol=0)


def test_losses_are_logged_unweighted_with_cosines_and_ssim(tmp_path):
    monitor = Silent()
    anonymiser_run(tmp_path).train(monitor, stop_after_steps=1)
    [(name, figures)] = monitor.figures
    assert name == "anonymise"
    assert {"ssim", "cosine_owner_r0", "cosine_pair_r1"} <= figures.keys()
    weights = loss_weights(ANONYMISER.anonymise, 0.0)
    names = ("identity", "pair", "strangers", "similarity", "tone", "recovery")
    total = sum(weights[name] * figures[name] for name in names)
    assert figures["total_anonymiser"] == pytest.approx(total, rel=1e-4)


def test_losses_are_float32_in_bfloat16_training(tmp_path):
    run = anonymiser_run(tmp_path, dataclasses.replace(ANONYMISER, precision="bf16"))
    run.train(Silent(), stop_after_steps=1)
    [stage] = run.stages
    batch = take(tiny_pack(), np.arange(4), np.zeros(4, dtype=bool))
    with run.ranks.autocast():
        outputs = stage.forward(batch, 0)
        losses = [loss for player in stage.players for loss in player.losses(outputs).values()]
    assert {value.dtype for value in [*losses, *stage.figures(outputs).values()]} == {torch.float32}


@pytest.mark.parametrize("surrogates", [0, 3])
def test_every_surrogate_needs_two_faces(tmp_path, surrogates):
    with pytest.raises(SettingsError, match=f"expected 1 to 2 surrogates.* 4 faces.*found {surrogates}"):
        anonymiser_run(tmp_path, surrogates=surrogates)


def test_micro_batches_keep_two_faces_for_every_surrogate(tmp_path):
    """Eight faces in two parts are two for each of two surrogates; four are one, who has no stranger."""
    larger = dataclasses.replace(ANONYMISER.anonymise, batch=8)
    config = dataclasses.replace(ANONYMISER, accumulate=2, anonymise=larger)
    monitor = Silent()
    anonymiser_run(tmp_path / "fits", config).train(monitor, stop_after_steps=1)
    assert all(np.isfinite(list(monitor.figures[0][1].values())))
    with pytest.raises(SettingsError, match="each of 2 surrogates in each part of a batch, found 2 faces"):
        anonymiser_run(tmp_path / "small", dataclasses.replace(ANONYMISER, accumulate=2)).train(Silent())


def test_the_averaged_networks_are_what_is_loaded_and_no_others(tmp_path):
    anonymiser_run(tmp_path / "run").train(Silent())
    config, networks, about = load_anonymiser(tmp_path / "run")
    assert config == ANONYMISER
    assert (about["stage"], about["steps"]) == ("done", STEPS)
    assert not networks.anonymiser.training
    with pytest.raises(CheckpointError, match=r"a run of the mask in .*, found one of the anonymiser"):
        load_networks(tmp_path / "run")
    tiny_run(tmp_path / "mask").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match=r"a run of the anonymiser in .*, found one of the mask"):
        load_anonymiser(tmp_path / "mask")


def test_a_run_begins_with_another_of_its_system_alone(tmp_path):
    anonymiser_run(tmp_path / "first").train(Silent(), stop_after_steps=1)
    options = {"continues": tmp_path / "first", "first_stage": "anonymise"}
    for keep_trained in (True, False):
        run = anonymiser_run(tmp_path / str(keep_trained), keep_trained=keep_trained, **options)
        assert (run.at.stage, run.at.step) == (0, 0)
        assert run.about["continues"]["run"] == "first"
        run.train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="is a run of the anonymiser, this one of the mask"):
        tiny_run(tmp_path / "mask", CONFIG, continues=tmp_path / "first", first_stage="attack")


def test_the_grid_shows_five_rows(tmp_path):
    run = anonymiser_run(tmp_path)
    sample = take(tiny_pack(), np.arange(3), np.zeros(3, dtype=bool))
    arguments = (sample, ANONYMISER.network, ANONYMISER.settings, run.stages[0].publish)
    grid = anonymised_grid(run.averaged_copy(), *arguments)
    assert grid.shape == (3, 5 * (SIZE + 2) + 2, 3 * (SIZE + 2) + 2)
    torch.testing.assert_close(anonymised_grid(run.averaged_copy(), *arguments), grid, rtol=0, atol=0)
