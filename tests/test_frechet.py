"""FID: the distance by hand, its network from a file, and what is said without one."""

import numpy as np
import pytest
import torch
import torchvision

from training.evaluation.frechet import (
    NOT_MEASURED,
    FrechetError,
    Inception,
    frechet_distance,
    frechet_distances,
)

SQUARE = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights: torchvision's layers have the names and sizes of torch-fidelity's."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_distance_by_hand():
    """Moved by (3, 4): 25, the covariances are equal. Twice as large: the mean moves from (1, 1) to (2, 2),
    and of covariances S and 4 S, S = 4/3 on the diagonal, tr(S + 4 S - 2 * 2 S) = tr S = 8/3."""
    assert frechet_distance(SQUARE, SQUARE) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(SQUARE, SQUARE + np.array([3, 4])) == pytest.approx(25)
    assert frechet_distance(SQUARE, 2 * SQUARE) == pytest.approx(2 + 8 / 3)


def test_equal_pictures_are_at_no_distance_and_brighter_ones_farther_the_brighter(weights):
    pictures = np.random.default_rng(0).integers(0, 128, (6, 16, 16, 3), dtype=np.uint8)
    inception = Inception(weights, layer="64")
    versions = {f"{shift} brighter": pictures + np.uint8(shift) for shift in (0, 20, 100)}
    features = {name: inception(version) for name, version in versions.items()}
    assert features["0 brighter"].shape == (6, 64)
    pairs = {name: ("0 brighter", name) for name in versions}
    same, little, much = frechet_distances(features, pairs).values()
    assert abs(same) < 1e-6 * much
    assert 0 < 2 * little < much


def test_without_weights_it_is_said_to_be_unmeasured():
    assert frechet_distances(None, {"a against b": ("a", "b")}) == NOT_MEASURED
    assert NOT_MEASURED == "not measured: no Inception weights (--inception)"


@pytest.mark.parametrize("state", [{"fc.bias": torch.zeros(1000)}, [1, 2]])
def test_other_weights_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(FrechetError, match=r"other.pth: expected torch-fidelity's weights-inception-2015"):
        Inception(tmp_path / "other.pth")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(FrechetError, match=r"broken.pth: expected torch-fidelity's"):
        Inception(tmp_path / "broken.pth")


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 pictures of each kind, found 1 and 4"):
        frechet_distance(SQUARE[:1], SQUARE)
