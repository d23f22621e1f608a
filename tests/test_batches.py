"""Batches: the same for the same seed and step, mirrored faces with mirrored landmarks."""

import numpy as np
import pytest
import torch

from tests.tiny_run import SIZE
from tests.tiny_training import N, tiny_pack
from training.batches import epoch_batches, steps_per_epoch, take, to_network
from training.data.errors import DataError


def test_normalisation_maps_bytes_to_minus_one_and_one():
    crops = np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=3)
    assert to_network(crops).flatten().tolist() == [-1.0] * 3 + [1.0] * 3


def test_an_epoch_shows_every_face_once_and_another_epoch_in_another_order():
    pack = tiny_pack()
    epochs = [
        torch.cat([batch.keys // 2 for batch in epoch_batches(pack, 4, seed=0, epoch=epoch)])
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0].tolist()) == list(range(N))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_face_may_stand_anywhere_in_its_batch():
    """Surrogates that share a batch see a run of it: in the data set's order each would see its own faces."""
    orders = [batch.keys // 2 for batch in epoch_batches(tiny_pack(), 4, seed=0, epoch=0)]
    assert any(not torch.equal(order, order.sort().values) for order in orders)


def test_a_later_step_does_not_depend_on_those_before():
    pack = tiny_pack()
    whole = list(epoch_batches(pack, 2, seed=3, epoch=5))
    rest = list(epoch_batches(pack, 2, seed=3, epoch=5, first_step=2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.face, b.face)
        assert torch.equal(a.landmarks, b.landmarks)


def test_mirroring_moves_landmarks_with_the_pixels():
    """A bright dot on the left eye must be under the right-eye landmark of the mirrored face."""
    pack = tiny_pack()
    crops = np.zeros_like(pack.crops)
    landmarks = np.round(pack.landmarks)
    for crop, face in zip(crops, landmarks, strict=True):
        crop[int(face[0, 1]), int(face[0, 0])] = 255
    pack = type(pack)(crops, landmarks.astype(np.float32), pack.attributes, pack.identities, pack.names)
    batch = take(pack, np.arange(2), np.array([True, True]))
    for face, points in zip(batch.face, batch.landmarks, strict=True):
        x, y = points[1].int().tolist()
        assert face[0, y, x] == 1.0
    assert points[1, 0] > SIZE / 2


def test_a_pack_smaller_than_a_batch_is_an_error():
    with pytest.raises(DataError, match="at least one batch of 64 faces, found 8"):
        steps_per_epoch(tiny_pack(), 64)
