"""The face as it is published and found again."""

import pytest
import torch

from tests.tiny_training import SIZE
from training.draws import Draws
from training.stages.publish import Publish, Realignment, edited_attributes


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


def test_realignment_strays_by_the_jitter():
    """Turn (radians) and logarithm of the scale by 0.02; the shift by 0.02 sides, of which there are 2."""
    torch.manual_seed(0)
    theta = Realignment.draw(0.02, Draws(20_000)).theta
    turn, scale = torch.atan2(theta[:, 1, 0], theta[:, 0, 0]), theta[:, :, 0].norm(dim=1)
    for values, expected in (
        (turn, 0.02),
        (scale.log(), 0.02),
        (theta[:, 0, 2], 0.04),
        (theta[:, 1, 2], 0.04),
    ):
        assert values.std().item() == pytest.approx(expected, rel=0.03)
        assert values.mean().item() == pytest.approx(0, abs=0.002)
    torch.testing.assert_close(theta[:, 0, 0], theta[:, 1, 1])
    torch.testing.assert_close(theta[:, 0, 1], -theta[:, 1, 0])


def test_edited_attributes_keep_ones_own_or_take_anothers():
    attributes = torch.eye(6)
    assert torch.equal(edited_attributes(attributes, 0.0), attributes)
    edited = edited_attributes(attributes, 1.0)
    assert torch.equal(edited.sum(0), torch.ones(6))


def test_realignment_is_exact_in_bfloat16_training():
    faces = torch.rand(4, 3, 64, 64)
    torch.manual_seed(2)
    plain = Realignment.draw(0.02, Draws(4)).pictures(faces)
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16):
        cast = Realignment.draw(0.02, Draws(4)).pictures(faces)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
