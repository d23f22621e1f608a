"""Rebuilt attacks on tiny recognisers: their bounds, what they must reach, and what they may not see."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from benchmarks.efficacy.attacks.advfaces_training import Players, Training, train, train_step
from benchmarks.efficacy.attacks.ahead import AheadBackend, Meter
from benchmarks.efficacy.attacks.base import Attack, Clean, UnbuildableError, to_crops, to_faces
from benchmarks.efficacy.attacks.cloak import Cloak, dssim, scaled_back
from benchmarks.efficacy.attacks.gradient import GradientAttack, MiFgsm
from benchmarks.efficacy.attacks.manifold import ManifoldAttack
from benchmarks.efficacy.attacks.registry import PEERS, Means
from benchmarks.efficacy.attacks.semantic import SemanticAdv, decoded_from
from benchmarks.efficacy.attacks.sibling import SiblingAttack, gradient
from benchmarks.efficacy.attacks.stage_one import StageOne, load_stage_one
from benchmarks.efficacy.attacks.surrogates import Surrogates, load_surrogates
from runtime.errors import BackendError
from tests.tiny_run import SIZE, save_run
from tests.tiny_training import tiny_pack, tiny_recognizer
from training.surrogates import SurrogateError, registry

N = 3


def smooth_faces(count: int, seed: int = 0) -> np.ndarray:
    """Crops without noise: a face's neighbouring pixels are alike."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0.2, 0.8, (count, 3, 5, 5))).float()
    return to_crops(torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1))


CROPS = smooth_faces(N)


@pytest.fixture(scope="module")
def surrogates() -> Surrogates:
    return Surrogates([tiny_recognizer(i) for i in range(3)], smooth_faces(1, seed=9)[0])


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> StageOne:
    return load_stage_one(save_run(tmp_path_factory.mktemp("run")), crop_px=SIZE)


BOUNDED = ["FGSM", "PGD", "MI-FGSM", "TI-DIM", "sibling", "manifold"]


@pytest.fixture(params=[*BOUNDED, "semantic", "cloak"])
def attack(request: pytest.FixtureRequest, surrogates: Surrogates, stage_one: StageOne) -> Attack:
    """Every attack that needs no training."""
    both = {"surrogates": surrogates, "stage_one": stage_one}
    match request.param:
        case "sibling":
            return SiblingAttack(**both, levels=4)
        case "semantic":
            return SemanticAdv(**both, steps=8, inversion_steps=2)
        case "manifold":
            return ManifoldAttack(**both, levels=4, steps=5)
        case "cloak":
            return Cloak(surrogates=surrogates, steps=8, learning_rate=0.0005)
        case method:
            return GradientAttack(surrogates=surrogates, method=method, levels=4, steps=8, step_levels=1)


def cosine(surrogates: Surrogates, crops: np.ndarray) -> float:
    with torch.no_grad():
        return float(surrogates(to_faces(crops)).mean())


def test_an_attack_is_repeatable_and_moves_faces_towards_the_target(
    attack: Attack, surrogates: Surrogates
) -> None:
    before = CROPS.copy()
    made = attack(before, seed=1)
    assert made.dtype == np.uint8
    assert made.shape == CROPS.shape
    assert np.array_equal(before, CROPS)  # the input is left alone
    assert np.array_equal(made, attack(before, seed=1))
    reference = CROPS
    if isinstance(attack, SemanticAdv):  # what its generator does to a face is not the attack's doing
        own = attack.stage_one.attributes_of(to_faces(CROPS))
        reference = to_crops(
            attack.stage_one.edit(to_faces(CROPS), attack.nearest_edit(to_faces(CROPS), own))
        )
    assert cosine(surrogates, made) > cosine(surrogates, reference)


def test_an_attack_does_not_touch_the_random_numbers_of_others(surrogates: Surrogates) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    GradientAttack(surrogates=surrogates, method="PGD", levels=4, steps=1, step_levels=1)(CROPS, seed=5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("attack", BOUNDED, indirect=True)
def test_no_pixel_leaves_the_ball_after_rounding(attack: Attack) -> None:
    """Four levels of 255 are four levels of the uint8 crop, also at its ends."""
    extreme = CROPS.copy()
    extreme[0], extreme[1] = 0, 255
    change = np.abs(attack(extreme, seed=0).astype(int) - extreme)
    assert 1 <= change.max() <= 4


def test_fgsm_is_one_signed_step(surrogates: Surrogates) -> None:
    """``crop + 4 sign(gradient of the cosine)``."""
    attack = GradientAttack(surrogates=surrogates, method="FGSM", levels=4, steps=1, step_levels=4)
    sign = gradient(surrogates, to_faces(CROPS)).sign().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(attack(CROPS, seed=0), np.clip(CROPS + 4 * sign, 0, 255).astype(np.uint8))


def test_mi_fgsm_adds_up_gradients_over_their_l1_norms() -> None:
    """Eq. 6 of its paper. foolbox would add up signs, +1 and -1; here (3, -1) becomes (3/4, -1/4)."""
    import eagerpy

    found = MiFgsm().normalize(eagerpy.astensor(torch.tensor([[3.0, -1.0]])), x=None, bounds=None)
    assert torch.equal(found.raw, torch.tensor([[0.75, -0.25]]))


def test_another_seed_starts_pgd_elsewhere(surrogates: Surrogates) -> None:
    attack = GradientAttack(surrogates=surrogates, method="PGD", levels=4, steps=2, step_levels=1)
    assert not np.array_equal(attack(CROPS, seed=0), attack(CROPS, seed=1))


def test_a_round_of_sibling_attack_goes_as_far_as_its_code_says(
    surrogates: Surrogates, stage_one: StageOne
) -> None:
    """Round 1, share 0.9: one step of 0.9/255 and one of 0.9 * 0.01 of [-1, 1]: 0.45 + 1.1475 levels."""
    attack = SiblingAttack(surrogates=surrogates, stage_one=stage_one, rounds=1, inner_steps=1)
    faces = to_faces(CROPS)
    change = (attack.perturb(faces) - faces).abs() * 255
    assert float(change.max()) == pytest.approx(0.45 + 1.1475, abs=1e-3)


def test_dssim_is_scikit_images(surrogates: Surrogates) -> None:
    first, second = smooth_faces(2)
    expected = structural_similarity(
        *(first / 255, second / 255),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    found = dssim(to_faces(first[None]), to_faces(second[None]))
    assert float(found) == pytest.approx((1 - expected) / 2, abs=1e-4)


@pytest.mark.parametrize("learning_rate", [0.0005, 0.3])
def test_a_cloak_stays_within_its_dssim(surrogates: Surrogates, learning_rate: float) -> None:
    """On the rounded crop, also where the optimiser runs far beyond it."""
    attack = Cloak(surrogates=surrogates, steps=4, learning_rate=learning_rate, penalty=0.0)
    assert float(dssim(to_faces(attack(CROPS, seed=0)), to_faces(CROPS)).max()) <= 0.007


def test_a_change_is_scaled_back_to_the_dssim_and_no_further() -> None:
    faces, noise = to_faces(CROPS), torch.rand(N, 3, SIZE, SIZE) - 0.5
    found = dssim(to_faces(to_crops(scaled_back(faces, noise, 0.05))), faces)
    assert torch.all((found > 0.04) & (found <= 0.05))
    assert torch.equal(scaled_back(faces, torch.zeros_like(faces), 0.05), faces)


def test_semantic_adv_at_its_end_is_the_edited_picture(surrogates: Surrogates, stage_one: StageOne) -> None:
    attack = SemanticAdv(
        surrogates=surrogates, stage_one=stage_one, steps=2, lowest=1.0, start=1.0, inversion_steps=0
    )
    faces = to_faces(CROPS)
    edit = attack.nearest_edit(faces, stage_one.attributes_of(faces))
    expected = stage_one.edit(faces, edit)
    assert float((attack.perturb(faces) - expected).abs().max()) < 1e-5
    assert torch.equal((edit - stage_one.attributes_of(faces)).abs().sum(1), torch.ones(N))


def test_decoding_from_a_layer_on_gives_the_decoders_picture(stage_one: StageOne) -> None:
    decoder = stage_one.generator.decoder
    features = stage_one.generator.encoder(2 * to_faces(CROPS) - 1)
    outputs = decoder(features, torch.ones(N, decoder.n_attributes))
    for level in range(decoder.inject_layers, len(decoder.layers)):
        assert torch.allclose(decoded_from(decoder, outputs[level], features, level), outputs[-1])


def test_black_box_recognisers_cannot_be_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = tiny_recognizer(0)
    object.__setattr__(held_out.card, "role", "black-box")
    with pytest.raises(
        SurrogateError, match="expected white-box recognisers to attack, found 'r0', black-box"
    ):
        Surrogates([tiny_recognizer(1), held_out], CROPS[0])

    entry = {"size": [28, 28], "box": [0, 0, 112, 112]}
    roles = {"open": "white-box", "hidden": "black-box"}
    cards = tmp_path / "cards.json"
    cards.write_text(json.dumps({"models": {name: {**entry, "role": role} for name, role in roles.items()}}))
    loaded = []

    def load(card):
        loaded.append(card.name)
        return tiny_recognizer(0).network

    monkeypatch.setitem(registry.LOADERS, "onnx", load)
    portrait = Path(__file__).parents[1] / "examples" / "portrait.jpg"
    assert load_surrogates(cards, portrait, SIZE).names == ["open"]
    assert loaded == ["open"]


def test_crops_of_another_kind_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected aligned crops uint8 \(N, S, S, 3\), found float32 \(1, 4, 4, 3\)"
    ):
        Clean()(np.zeros((1, 4, 4, 3), np.float32), seed=0)


def test_a_run_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"was trained on faces of {SIZE} px, expected 128 px"):
        load_stage_one(save_run(tmp_path / "run"), crop_px=128)


def test_peers_say_whose_they_are_and_what_they_lack(surrogates: Surrogates, tmp_path: Path) -> None:
    """Nothing trained is at hand: those that need it say so, and the others can be had."""
    means = Means(surrogates=surrogates, run=None, pack=None, folder=tmp_path, training={})
    reasons = {}
    for peer in PEERS:
        assert peer.paper
        assert peer.differs
        try:
            peer.make(means)
        except UnbuildableError as error:
            reasons[peer.name] = str(error)
    assert set(reasons) == {"Sibling-Attack", "AdvFaces", "SemanticAdv", "GMAA, per face"}
    assert "--pack" in reasons["AdvFaces"]
    assert "--run" in reasons["SemanticAdv"]


TRAINING = Training(width=4, steps=4, batch=4, save_every=2, learning_rate=1e-2)


SHORTER = {**dataclasses.asdict(TRAINING), "steps": 2}


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def stop_after_two(steps):
    for step in steps:
        if step > 2:
            raise StoppedError
        yield step


def test_training_that_was_stopped_ends_as_one_that_was_not(surrogates: Surrogates, tmp_path: Path) -> None:
    asked = {"about": {"target": "t"}, "settings": TRAINING}
    whole = train(tiny_pack(), surrogates, tmp_path / "whole.pt", **asked)
    with pytest.raises(StoppedError):
        train(tiny_pack(), surrogates, tmp_path / "cut.pt", **asked, progress=stop_after_two)
    resumed = train(tiny_pack(), surrogates, tmp_path / "cut.pt", **asked)
    assert np.array_equal(whole(CROPS, seed=0), resumed(CROPS, seed=0))
    assert whole.settings["steps"] == 4
    with pytest.raises(ValueError, match=r"cut\.pt was trained for 4 steps, expected at most 2"):
        train(
            tiny_pack(), surrogates, tmp_path / "cut.pt", about=asked["about"], settings=Training(**SHORTER)
        )
    with pytest.raises(ValueError, match=r"cut\.pt was trained otherwise: expected \{'target': 'other'"):
        train(tiny_pack(), surrogates, tmp_path / "cut.pt", about={"target": "other"}, settings=TRAINING)


def test_advfaces_learns_to_move_faces_to_the_target(surrogates: Surrogates) -> None:
    players, faces = Players(TRAINING), to_faces(smooth_faces(6))
    losses = [train_step(faces, surrogates, players, TRAINING, norm=2.0)["identity"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


class Counting(Clean):
    """Brightens every face by a level, and counts its calls."""

    calls = 0

    def __call__(self, crops: np.ndarray, *, seed: int) -> np.ndarray:
        type(self).calls += 1
        return crops + np.uint8(1)


def test_faces_are_noted_protected_together_and_not_again_after_a_stop(tmp_path: Path) -> None:
    Counting.calls = 0
    others = {"attributes": np.zeros((1, 2)), "strength": np.ones((1, 1)), "injection": np.ones((1, 1))}
    for _ in range(2):
        meter = Meter()
        backend = AheadBackend(Counting(), meter, seed=0, folder=tmp_path)
        for crop in CROPS:
            assert np.array_equal(backend.run({"faces": crop[None], **others})["protected"][0], crop)
        backend.prepare(2)
        for crop in CROPS:
            assert np.array_equal(backend.run({"faces": crop[None], **others})["protected"][0], crop + 1)
        assert (len(meter.seconds), meter.mean_levels, meter.max_levels) == (N, [1.0] * N, [1] * N)
    assert Counting.calls == 2  # of two faces and of one; the second time both were there
    with pytest.raises(BackendError, match="expected only faces that were noted before"):
        backend.run({"faces": CROPS[:1] + np.uint8(7), **others})
    fresh = AheadBackend(Counting(), Meter(), seed=0, folder=tmp_path)
    fresh.run({"faces": CROPS[1:2], **others})
    with pytest.raises(BackendError, match="holds other faces; delete"):
        fresh.prepare(2)
