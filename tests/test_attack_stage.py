"""Stage 2: who sees which faces, and what each loss is of."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.tiny_training import (
    CONFIG,
    SIZE,
    Silent,
    mean_difference,
    settings,
    tiny_pack,
    tiny_recognizer,
    tiny_run,
)
from training import losses
from training.batches import take
from training.stages.publish import Publish
from training.stages.surrogate_loss import shared_faces
from training.tasks import make_stages


def attack_step(folder, config):
    """The first step of stage 2: the stage, its batch and its outputs."""
    run = tiny_run(folder, config)
    run.train(Silent(), stop_after_steps=2)
    stage = run.stages[1]
    stage.begin()
    stage.modes()
    torch.manual_seed(5)
    pack = tiny_pack()
    batch = take(pack, np.arange(6), np.zeros(6, dtype=bool))
    outputs = stage.forward(batch, 0)
    return stage, batch, outputs


def test_surrogates_take_turns(tmp_path):
    stage = tiny_run(tmp_path).stages[1]
    assert [stage.primaries(step) for step in range(4)] == [[0], [1], [2], [0]]
    stage.attack = dataclasses.replace(stage.attack, meta_every=2)
    assert [stage.primaries(step) for step in (0, 2, 4, 6)] == [[0], [1], [2], [0]]


def test_shared_batches_show_each_face_to_one_surrogate(tmp_path):
    stage, batch, _ = attack_step(tmp_path, settings(share_batch=True))
    seen = []
    for surrogate in stage.surrogates:
        surrogate.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for loss in stage._attack_losses(batch):
        seen.clear()
        loss(batch.face)
        assert [len(faces) for faces in seen] == [2]
    assert [(s.start, s.stop) for s in shared_faces(7, 3)] == [(0, 2), (2, 4), (4, 7)]


def test_the_mean_over_shared_losses_is_the_unshared_one_for_equal_surrogates(tmp_path):
    """With one and the same surrogate K times, mean of the K shares' losses = loss of the whole batch."""
    stage, batch, _ = attack_step(tmp_path, settings(share_batch=True))
    stage.surrogates = [stage.surrogates[0]] * 3
    stage.targets = [stage.targets[0]] * 3
    shared = torch.stack([loss(batch.face) for loss in stage._attack_losses(batch)]).mean()
    stage.attack = dataclasses.replace(stage.attack, share_batch=False)
    torch.testing.assert_close(shared, stage._attack_losses(batch)[0](batch.face))


def test_a_batch_too_small_to_share_is_refused(tmp_path):
    config = dataclasses.replace(
        settings(share_batch=True), attack=dataclasses.replace(CONFIG.attack, batch=2)
    )
    with pytest.raises(ValueError, match="batch of at least 3 faces to share, found 2"):
        tiny_run(tmp_path, config)


def test_the_perceptual_loss_compares_what_is_published_with_the_edited_face(tmp_path):
    stage, batch, outputs = attack_step(tmp_path, settings(lpips_bound=0.0))
    edited = stage.publish(batch.face, outputs.edited)
    expected = mean_difference(outputs.published, edited).mean()
    torch.testing.assert_close(stage._losses(outputs)["lpips"], expected)
    stage.attack = dataclasses.replace(stage.attack, lpips_bound=9.0)
    assert stage._losses(outputs)["lpips"].item() == 9.0


def test_visibility_compares_what_is_published_with_the_edited_face_where_it_has_a_weight(tmp_path):
    stage, batch, _ = attack_step(tmp_path, CONFIG)
    for parameter in stage.networks.generator.perturbation_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    outputs = stage.forward(batch, 0)
    expected = losses.visibility_loss(outputs.published, stage.publish(batch.face, outputs.edited))
    assert expected > 0.001
    torch.testing.assert_close(stage._losses(outputs)["visibility"], expected)
    weights = {name: w for name, w in stage.config.weights.items() if name != "visibility"}
    stage.config = dataclasses.replace(stage.config, weights=weights, ramps={})
    assert "visibility" not in stage._losses(outputs)


def test_a_weight_for_lpips_without_its_network_is_refused():
    networks = CONFIG.network.networks()
    recognizers = [tiny_recognizer(i) for i in range(2)]
    with pytest.raises(ValueError, match="the loss lpips has a weight; expected its network"):
        make_stages(CONFIG, networks, recognizers, [torch.ones(6)] * 2, Publish(SIZE, masked=True))


def test_the_restorer_starts_from_the_generator(tmp_path):
    """Without attributes, whose channels it lacks, G's clean branch is what R gives."""
    stage, batch, _ = attack_step(tmp_path, CONFIG)
    edited = stage.networks.generator.edit(batch.face, torch.zeros(6, 3))
    torch.testing.assert_close(stage.networks.restorer(batch.face), edited)


def test_recognisers_and_restorer_see_what_the_noise_pool_leaves(tmp_path):
    stage, batch, _ = attack_step(tmp_path, CONFIG)
    stage.noise = lambda face, draws: face / 2
    outputs = stage.forward(batch, 0)
    received = outputs.published / 2
    torch.testing.assert_close(outputs.attack.observed, received)
    torch.testing.assert_close(outputs.restored, stage.publish(received, stage.networks.restorer(received)))
    for index, loss in enumerate(stage._attack_losses(batch)):
        torch.testing.assert_close(outputs.attack.primary[index], loss(received).detach())


def test_each_loss_of_stage_2_is_of_its_own_pictures(tmp_path):
    """Eq. 15: the norm of what the network gives; D, and the restorer's source, as people see them."""
    stage, batch, _ = attack_step(tmp_path, settings(edit_share=1.0, sigma=0.0, chroma_weight=2.0))
    for parameter in stage.networks.generator.perturbation_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    outputs = stage.forward(batch, 0)
    found = stage._losses(outputs)
    protected, published = outputs.protected, outputs.published
    torch.testing.assert_close(published, stage.publish(batch.face, protected))
    assert not torch.allclose(published, protected)
    assert not torch.equal(outputs.attributes, batch.attributes)
    logits, attributes = stage.networks.discriminator(published)
    expected = {
        "attack": outputs.attack.total,
        "erasure": losses.erasure_loss(outputs.restored, batch.face),
        "perturbation": losses.perturbation_loss(protected, outputs.edited, 0.0, 2.0),
        "attribute": losses.attribute_loss(attributes, outputs.attributes),
        "generator": losses.generator_loss(logits),
    }
    assert expected["perturbation"] > 0.1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    judged = stage._discriminator_losses(outputs)
    real, own = stage.networks.discriminator(batch.face)
    torch.testing.assert_close(judged["discriminator"], losses.discriminator_loss(real, logits))
    torch.testing.assert_close(judged["attribute_real"], losses.attribute_loss(own, batch.attributes))


def test_the_weights_of_an_epoch_come_from_the_two_before_it(tmp_path):
    """Eq. 11 with mean losses 1, 1, 1 and then 1/2, 1, 1: the first one's rate is 1/2, the others' 1."""
    stage = tiny_run(tmp_path).stages[1]
    for means in ([1.0, 1.0, 1.0], [0.5, 1.0, 1.0]):
        assert stage.weights.tolist() == pytest.approx([math.exp(1 / 3)] * 3)
        stage._sums, stage._steps = 4 * torch.tensor(means), 4
        told = stage.end_epoch()
    assert stage.history == [[1.0, 1.0, 1.0], [0.5, 1.0, 1.0]]
    slow = math.exp(1.0) / (math.exp(0.5) + 2 * math.exp(1.0))
    expected = [math.exp(1 - 2 * slow), math.exp(slow), math.exp(slow)]
    assert stage.weights.tolist() == pytest.approx(expected)
    assert list(told.values()) == pytest.approx(expected)
    assert (stage._sums.tolist(), stage._steps) == ([0.0, 0.0, 0.0], 0)
    other = tiny_run(tmp_path / "other").stages[1]
    other.restore(stage.state())
    assert other.weights.tolist() == pytest.approx(expected)


def test_jittered_landmarks_change_what_surrogates_see_but_not_the_owner(tmp_path):
    stage, batch, _ = attack_step(
        tmp_path, settings(landmark_jitter=0.05, owner_weight=1.0, owner_margin=-1.0)
    )
    torch.manual_seed(1)
    jittered = stage._attack_losses(batch)[0](batch.face)
    stage.attack = dataclasses.replace(stage.attack, landmark_jitter=0.0)
    plain = stage._attack_losses(batch)[0](batch.face)
    assert not torch.equal(jittered, plain)
    embedding_grid = stage.surrogates[0].sampling_grid(batch.landmarks, SIZE)
    target = (1 - stage.surrogates[0](batch.face, embedding_grid) @ stage.targets[0]).mean()
    torch.testing.assert_close(plain, target + 2.0)  # the owner matches himself: cosine 1, margin -1


def test_without_meta_steps_the_auxiliary_losses_are_those_of_the_others(tmp_path):
    """L_aux = sum over the others of w L / (K - 1) at theta itself; only theta is ever evaluated."""
    stage, batch, outputs = attack_step(tmp_path, settings(meta_every=0))
    weights, primary = stage.weights, outputs.attack.primary
    expected = (weights[1] * primary[1] + weights[2] * primary[2]) / 2
    torch.testing.assert_close(outputs.attack.auxiliary, expected)
    calls = []
    stage.networks.generator.perturbation_encoder.register_forward_hook(lambda *_: calls.append(1))
    stage.forward(batch, 0)
    assert len(calls) == 1


def test_similarities_are_those_before_the_meta_step(tmp_path):
    stage, batch, outputs = attack_step(tmp_path, settings(meta_every=1, owner_weight=1.0))
    figures = stage.figures(outputs)
    for index, (surrogate, target) in enumerate(zip(stage.surrogates, stage.targets, strict=True)):
        grid = surrogate.sampling_grid(batch.landmarks, SIZE)
        embedding = surrogate(outputs.attack.observed, grid)
        cosine = figures[f"cosine_target_{surrogate.card.name}"]
        torch.testing.assert_close(cosine, (embedding @ target).mean().detach())
        owner = (embedding * surrogate(batch.face, grid)).sum(1).mean().detach()
        torch.testing.assert_close(figures[f"cosine_owner_{surrogate.card.name}"], owner)
        expected = (1 - cosine) + (embedding * surrogate(batch.face, grid)).sum(1).clamp_min(0).mean()
        torch.testing.assert_close(outputs.attack.primary[index], expected.detach())
