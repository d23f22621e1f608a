"""The loop on tiny networks: what each stage trains, and resuming, which must change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_run import SIZE, TINY
from training.batches import take
from training.checkpoint import CheckpointError, load_checkpoint, load_networks, save_checkpoint
from training.config import AttackConfig
from training.data import FacePack
from training.data.errors import DataError
from training.draws import Draws
from training.loop import Run
from training.noise_pool import NoisePool
from training.recipe import make_stages
from training.stages import Networks
from training.stages.publish import Publish, Realignment, edited_attributes
from training.stages.surrogate_loss import shared_faces
from training.surrogates import Recognizer, RecognizerCard
from training.surrogates.card import SurrogateError

N = 8

CONFIG = dataclasses.replace(
    TINY,
    network=dataclasses.replace(TINY.network, n_attributes=3),
    attributes=dataclasses.replace(TINY.attributes, epochs=1, batch=4, learning_rate=1e-3),
    attack=dataclasses.replace(TINY.attack, epochs=2, batch=4, learning_rate=1e-3),
    erasure=dataclasses.replace(TINY.erasure, epochs=1, batch=4, learning_rate=1e-3),
    attack_settings=AttackConfig(
        sigma=1.0, epsilon=0.0, inner_lr=0.1, primaries_per_step=1, owner_weight=0.5
    ),
    noise=NoisePool(resize_factor=0.5),
    precision="fp32",
    ema_decay=0.9,
)
STEPS = 2 + 2 * 2 + 2


class Silent:
    """A monitor that keeps the figures."""

    def __init__(self):
        self.figures = []

    def begin(self, stage, total_steps, done_steps): ...

    def step(self, stage, global_step, figures):
        self.figures.append((stage.name, figures))

    def epoch(self, stage, epoch, global_step, figures): ...


def tiny_pack(n_attributes: int = 3) -> FacePack:
    rng = np.random.default_rng(0)
    landmarks = np.array([[12, 13], [20, 13], [16, 18], [13, 23], [19, 23]], dtype=np.float32)
    return FacePack(
        crops=rng.integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8),
        landmarks=landmarks + rng.normal(0, 0.3, (N, 5, 2)).astype(np.float32),
        attributes=rng.integers(0, 2, (N, n_attributes)).astype(np.uint8),
        identities=np.arange(N),
        names=tuple(f"{i}.png" for i in range(N)),
    )


def tiny_recognizer(seed: int) -> Recognizer:
    torch.manual_seed(100 + seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(6))
    network(torch.zeros(1, 3, 28, 28))
    card = RecognizerCard(
        name=f"r{seed}",
        path=None,
        role="white-box",
        size_hw=(28, 28),
        box=(0, 0, 112, 112),
        thresholds={},
    )
    return Recognizer(card, network)


def mean_difference(picture: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Stands for LPIPS."""
    return (picture - reference).abs().flatten(1).mean(1)


def tiny_run(folder, config=CONFIG, surrogates=3, given=None, ranks=None, **options) -> Run:
    torch.manual_seed(config.seed)
    networks = Networks(config.network.generator(), config.network.restorer(), config.network.discriminator())
    recognizers = [tiny_recognizer(i) for i in range(surrogates)]
    targets = [nn.functional.normalize(torch.ones(6), dim=0) for _ in recognizers]
    publish = Publish(SIZE, masked=config.paste_mask)
    stages = make_stages(config, networks, recognizers, targets, publish, mean_difference, ranks)
    given = given or {"target": "nobody"}
    return Run(folder, config, networks, stages, tiny_pack(), given, ranks=ranks, **options)


def weights_of(folder) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder)
    return {
        f"{kind}.{network}.{name}": tensor
        for kind in ("networks", "averaged")
        for network, tensors in state[kind].items()
        for name, tensor in tensors.items()
    }


def test_a_killed_run_continued_equals_an_uninterrupted_one(tmp_path):
    tiny_run(tmp_path / "whole").train(Silent())
    for _ in range(STEPS):  # killed after every single step
        tiny_run(tmp_path / "killed").train(Silent(), stop_after_steps=1)
    tiny_run(tmp_path / "killed").train(Silent())
    whole, killed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, rtol=0, atol=0, msg=name)


def test_every_stage_trains_its_own_networks_and_freezes_the_others(tmp_path):
    trained = {
        "attributes": ("generator.encoder", "generator.decoder", "discriminator."),
        "attack": ("generator.perturbation_encoder", "restorer.", "discriminator."),
        "erasure": ("restorer.",),
    }
    run = tiny_run(tmp_path)

    def parameters() -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": parameter.detach().clone()
            for name, network in run.networks.items().items()
            for key, parameter in network.named_parameters()
        }

    for stage, steps in zip(run.stages, (2, 4, 2), strict=True):
        before = parameters()
        run.train(Silent(), stop_after_steps=steps - 1)
        assert run.stages[run.at.stage] is stage
        after = parameters()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert all(name.startswith(trained[stage.name]) for name in changed), stage.name
        for prefix in trained[stage.name]:
            assert any(name.startswith(prefix) for name in changed), (stage.name, prefix)
        run.train(Silent(), stop_after_steps=1)  # enters the next stage


def test_losses_are_logged_unweighted(tmp_path):
    monitor = Silent()
    tiny_run(tmp_path).train(monitor)
    attack = [figures for stage, figures in monitor.figures if stage == "attack"]
    assert {"attack", "erasure", "perturbation", "primary_r0", "primary_r2", "auxiliary"} <= attack[0].keys()
    weights = CONFIG.attack.weights
    names = ("attack", "erasure", "perturbation", "attribute", "generator")
    total = sum(weights[name] * attack[0][name] for name in names)
    assert attack[0]["total_protector"] == pytest.approx(total, rel=1e-4)


def test_the_averaged_networks_are_what_is_loaded(tmp_path):
    tiny_run(tmp_path).train(Silent())
    config, generator, restorer, discriminator, about = load_networks(tmp_path)
    assert config == CONFIG
    assert about["stage"] == "done"
    assert about["steps"] == STEPS
    saved = load_checkpoint(tmp_path)["averaged"]
    for name, network in (("generator", generator), ("restorer", restorer), ("discriminator", discriminator)):
        assert not network.training
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, saved[name][key])


def test_another_configuration_does_not_resume(tmp_path):
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(CheckpointError, match=r"another configuration.*seed was 0, is 1"):
        tiny_run(tmp_path, other)


def test_a_run_that_was_given_something_else_does_not_resume(tmp_path):
    tiny_run(tmp_path, commit="one").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="target was 'nobody', is 'somebody'"):
        tiny_run(tmp_path, given={"target": "somebody"})
    assert tiny_run(tmp_path, commit="two").about["commits"] == ["one", "two"]


def test_too_few_surrogates_or_faces_are_said_before_training(tmp_path):
    with pytest.raises(SurrogateError, match="at least 2 surrogates to take turns, found 1"):
        tiny_run(tmp_path / "run", surrogates=1)
    large = dataclasses.replace(CONFIG, erasure=dataclasses.replace(CONFIG.erasure, batch=99))
    with pytest.raises(DataError, match="at least one batch of 99 faces, found 8"):
        tiny_run(tmp_path / "run", large)
    assert not (tmp_path / "run").exists()


def test_a_run_may_begin_with_the_first_stage_of_another(tmp_path):
    first = tiny_run(tmp_path / "first")
    first.train(Silent(), stop_after_steps=2)
    trained = load_checkpoint(tmp_path / "first")["averaged"]["generator"]
    faster = dataclasses.replace(CONFIG, attack=dataclasses.replace(CONFIG.attack, epochs=1))
    run = tiny_run(tmp_path / "second", faster, continues=tmp_path / "first", first_stage="attack")
    assert run.stages[run.at.stage].name == "attack"
    assert torch.equal(
        run.networks.generator.encoder.layers[0][0].weight, trained["encoder.layers.0.0.weight"]
    )
    assert run.about["continues"]["run"] == "first"
    run.train(Silent())
    assert load_checkpoint(tmp_path / "second")["about"]["continues"]["steps"] == 2


def test_a_run_may_begin_with_the_attack_of_another(tmp_path):
    tiny_run(tmp_path / "first").train(Silent())
    theirs = load_checkpoint(tmp_path / "first")["averaged"]
    run = tiny_run(tmp_path / "second", continues=tmp_path / "first", first_stage="erasure")
    run.train(Silent())
    ours = load_checkpoint(tmp_path / "second")["averaged"]
    for name, tensor in ours["generator"].items():
        assert torch.equal(tensor, theirs["generator"][name])
    assert not torch.equal(
        ours["restorer"]["encoder.layers.0.0.weight"], theirs["restorer"]["encoder.layers.0.0.weight"]
    )


def test_a_first_stage_must_be_over_and_of_the_same_size(tmp_path):
    tiny_run(tmp_path / "first").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="is still in its stage 'attributes'"):
        tiny_run(tmp_path / "second", continues=tmp_path / "first", first_stage="attack")
    tiny_run(tmp_path / "first").train(Silent(), stop_after_steps=1)
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, width=8))
    with pytest.raises(CheckpointError, match="another size: width was 4, is 8"):
        tiny_run(tmp_path / "second", wider, continues=tmp_path / "first", first_stage="attack")


def test_a_missing_or_damaged_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_networks(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_networks(tmp_path)


def test_a_loss_without_a_weight_is_an_error(tmp_path):
    weights = {**CONFIG.attributes.weights}
    del weights["attribute_real"]
    config = dataclasses.replace(CONFIG, attributes=dataclasses.replace(CONFIG.attributes, weights=weights))
    with pytest.raises(ValueError, match="no weight for the losses attribute_real"):
        tiny_run(tmp_path, config).train(Silent())


def test_surrogates_take_turns(tmp_path):
    stage = tiny_run(tmp_path).stages[1]
    assert [stage.primaries(step) for step in range(4)] == [[0], [1], [2], [0]]
    stage.attack = dataclasses.replace(stage.attack, meta_every=2)
    assert [stage.primaries(step) for step in (0, 2, 4, 6)] == [[0], [1], [2], [0]]


def test_published_face_changes_only_under_the_mask():
    source = torch.zeros(1, 3, SIZE, SIZE)
    published = Publish(SIZE, masked=True)(source, torch.ones_like(source))
    assert published[0, :, 0].abs().max() == 0
    assert published[0, :, SIZE // 2, SIZE // 2].min() == 1
    assert torch.equal(Publish(SIZE, masked=False)(source, torch.ones_like(source)), torch.ones_like(source))


def test_both_pictures_are_realigned_alike():
    torch.manual_seed(0)
    face = torch.rand(4, 3, SIZE, SIZE)
    moved, other = Realignment.draw(0.05, Draws(4)).pictures(face, 1 - face)
    torch.testing.assert_close(moved + other, torch.ones_like(face))
    assert (moved - face).abs().mean() > 0.05
    still = Realignment.draw(0.0, Draws(4))
    assert still.pictures(face)[0] is face
    assert still.points(face[:, 0, :5, :2], SIZE).equal(face[:, 0, :5, :2])


def test_points_move_with_the_picture():
    """The centre of a blob, found in the moved picture, lies where the point says."""
    torch.manual_seed(0)
    side = 64
    centres = torch.tensor([[[20.0, 30.0]], [[40.0, 25.0]], [[33.0, 44.0]]])
    pixels = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).float()
    blobs = torch.exp(-(pixels[None] - centres[:, None]).square().sum(-1) / 18)[:, None]
    realignment = Realignment.draw(0.05, Draws(3))
    moved = realignment.pictures(blobs)[0]
    weights = moved / moved.sum((2, 3), keepdim=True)
    found = (weights[:, 0, :, :, None] * pixels).sum((1, 2))
    assert (found - centres[:, 0]).abs().max() > 1
    torch.testing.assert_close(realignment.points(centres, side)[:, 0], found, atol=0.02, rtol=0)


def test_edited_attributes_keep_ones_own_or_take_anothers():
    attributes = torch.eye(6)
    assert torch.equal(edited_attributes(attributes, 0.0), attributes)
    edited = edited_attributes(attributes, 1.0)
    assert torch.equal(edited.sum(0), torch.ones(6))


def settings(**attack) -> object:
    return dataclasses.replace(CONFIG, attack_settings=dataclasses.replace(CONFIG.attack_settings, **attack))


def attack_step(folder, config):
    """Losses and the perturbation encoder's gradients of the first step of stage 2."""
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


def test_a_weight_for_lpips_without_its_network_is_refused():
    networks = Networks(CONFIG.network.generator(), CONFIG.network.restorer(), CONFIG.network.discriminator())
    recognizers = [tiny_recognizer(i) for i in range(2)]
    with pytest.raises(ValueError, match="the loss lpips has a weight; expected its network"):
        make_stages(CONFIG, networks, recognizers, [torch.ones(6)] * 2, Publish(SIZE, masked=True))


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


def test_a_checkpoint_from_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    state = load_checkpoint(tmp_path)
    del state["config"]["attack_settings"]["share_batch"]
    save_checkpoint(tmp_path, state)
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match=r"attack_settings\.share_batch was False, is True"):
        tiny_run(tmp_path, settings(share_batch=True))


def test_without_meta_steps_the_auxiliary_losses_are_those_of_the_others(tmp_path):
    """L_aux = sum over the others of w L / (K - 1) at theta itself; only theta is ever evaluated."""
    stage, batch, outputs = attack_step(tmp_path, settings(meta_every=0))
    weights, losses = stage.weights, outputs.attack.primary
    expected = (weights[1] * losses[1] + weights[2] * losses[2]) / 2
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


def test_another_runs_stage_is_begun_anew_or_kept_as_trained(tmp_path):
    tiny_run(tmp_path / "other").train(Silent(), stop_after_steps=4)  # two steps into stage 2
    trained = load_checkpoint(tmp_path / "other")["averaged"]["generator"]
    name = "perturbation_encoder.layers.0.0.weight"
    assert not torch.equal(trained[name], trained["encoder.layers.0.0.weight"])
    for keep, expected in ((True, trained[name]), (False, trained["encoder.layers.0.0.weight"])):
        run = tiny_run(
            tmp_path / str(keep),
            settings(chroma_weight=2.0),
            continues=tmp_path / "other",
            first_stage="attack",
            keep_trained=keep,
        )
        assert (run.at.stage, run.at.step) == (1, 0)
        torch.testing.assert_close(run.networks.generator.state_dict()[name], expected, rtol=0, atol=0)
        assert run.about["continues"]["keep_trained"] is keep


def test_realignment_is_exact_in_bfloat16_training():
    faces = torch.rand(4, 3, 64, 64)
    torch.manual_seed(2)
    plain = Realignment.draw(0.02, Draws(4)).pictures(faces)
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16):
        cast = Realignment.draw(0.02, Draws(4)).pictures(faces)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


def test_losses_are_float32_in_bfloat16_training(tmp_path):
    run = tiny_run(tmp_path, dataclasses.replace(CONFIG, precision="bf16"))
    run.train(Silent(), stop_after_steps=2)
    for stage in run.stages[1:]:
        stage.begin()
        stage.modes()
        batch = take(tiny_pack(), np.arange(4), np.zeros(4, dtype=bool))
        with run.ranks.autocast():
            outputs = stage.forward(batch, 0)
            losses = [loss for player in stage.players for loss in player.losses(outputs).values()]
        assert {value.dtype for value in [*losses, *stage.figures(outputs).values()]} == {torch.float32}
