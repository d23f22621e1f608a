"""Recognisers: cards, the ban on held-out models, alignment and gradients."""

import json

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save
from torch import nn

from runtime.geometry import ARCFACE_TEMPLATE, box_transform, crop_template, warp
from training.data import DataError
from training.surrogates import Recognizer, SurrogateError, load_cards, load_recognizer, select_white_box
from training.target import target_embeddings, target_pictures


@pytest.fixture
def cards_file(tmp_path):
    """Two recognisers whose network is the mean colour: ``(N, 3, H, W) -> (N, 3)``."""
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 28, 28])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["face"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"], axis=1),
    ]
    models = {}
    for name, role in (("open", "white-box"), ("held_out", "black-box")):
        graph = helper.make_graph(nodes, name, [face], [embedding])
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / f"{name}.onnx")
        models[name] = {
            "role": role,
            "size": [28, 28],
            "box": [0, 0, 112, 112],
            "threshold": {"0.01": 0.2},
        }
    (tmp_path / "cards.json").write_text(json.dumps({"models": models}))
    return tmp_path / "cards.json"


def test_cards_are_read_and_white_boxes_chosen(cards_file):
    cards = load_cards(cards_file)
    assert cards["open"].thresholds == {"0.01": 0.2}
    assert [card.name for card in select_white_box(cards, None)] == ["open"]
    assert load_cards(cards_file.parent) == cards


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["held_out"], "'held_out' is black-box: it is held out"),
        (["no"], "no card for 'no'; there are: open"),
    ],
)
def test_held_out_and_unknown_recognisers_cannot_be_trained_against(cards_file, names, message):
    with pytest.raises(SurrogateError, match=message):
        select_white_box(load_cards(cards_file), names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "grey-box"}, "role white-box or black-box, found 'grey-box'"),
        ({"source": "tensorflow"}, "source onnx or facenet-pytorch or frbench, found 'tensorflow'"),
        ({"colour": "yuv"}, "colour rgb or bgr, found 'yuv'"),
        ({"mean": 127.5}, r"of pixels in \[0, 1\], found \(127.5, 127.5, 127.5\)"),
        ({"std": [1, 1, 0]}, r"and \(1.0, 1.0, 0.0\)"),
        ({"mean": [0.5, 0.5]}, "not enough values"),
        ({"size": 3}, "TypeError"),
    ],
)
def test_a_malformed_card_is_named(cards_file, change, message):
    rewrite(cards_file, change)
    with pytest.raises(SurrogateError, match=f"the card of 'open' is malformed: .*{message}"):
        load_cards(cards_file)


def rewrite(cards_file, change):
    """Changes fields of the card ``open``."""
    raw = json.loads(cards_file.read_text())
    raw["models"]["open"].update(change)
    cards_file.write_text(json.dumps(raw))


def test_a_surrogate_needs_no_thresholds(cards_file):
    raw = json.loads(cards_file.read_text())
    del raw["models"]["open"]["threshold"]
    cards_file.write_text(json.dumps(raw))
    assert load_cards(cards_file)["open"].thresholds == {}


def test_a_held_out_file_cannot_be_a_surrogate_under_another_name(cards_file):
    copy = cards_file.parent / "copy.onnx"
    copy.write_bytes((cards_file.parent / "held_out.onnx").read_bytes())
    rewrite(cards_file, {"file": "copy.onnx"})
    with pytest.raises(
        SurrogateError, match=r"'open' is white-box and 'held_out' is black-box, but .*\(SHA-256 "
    ):
        load_cards(cards_file)
    rewrite(cards_file, {"role": "black-box"})
    assert len(load_cards(cards_file)) == 2


def test_held_out_weights_cannot_be_a_surrogates_either(cards_file):
    entry = {"size": [160, 160], "box": [0, 0, 112, 112], "source": "facenet-pytorch", "weights": "vggface2"}
    models = {"a": {**entry, "role": "white-box"}, "b": {**entry, "role": "black-box"}}
    cards_file.write_text(json.dumps({"models": models}))
    with pytest.raises(SurrogateError, match=r"the same network \(facenet-pytorch vggface2\)"):
        load_cards(cards_file)


def test_an_onnx_recogniser_is_differentiable_and_stays_frozen(cards_file):
    recognizer = load_recognizer(load_cards(cards_file)["open"])
    face = torch.rand(2, 3, 64, 64).requires_grad_()
    landmarks = torch.from_numpy(crop_template(64)).expand(2, 5, 2)
    embedding = recognizer.train()(face, recognizer.sampling_grid(landmarks, 64))
    assert not recognizer.network.training
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    embedding[:, 0].sum().backward()
    assert face.grad.abs().sum() > 0


def test_a_missing_network_is_an_error(cards_file):
    card = load_cards(cards_file)["open"]
    card.path.unlink()
    with pytest.raises(SurrogateError, match="open: cannot read"):
        load_recognizer(card)


class Identity(nn.Module):
    """Keeps what it sees, flat."""

    def forward(self, face):
        self.seen = face
        return face.flatten(1)


def test_the_differentiable_warp_is_the_one_of_the_runtime(cards_file):
    """The grid samples where ``runtime.geometry.warp`` does: same picture, landmarks on the template."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    crop = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))
    landmarks = crop_template(64) + rng.normal(0, 0.5, (5, 2))
    card = load_cards(cards_file)["open"]
    network = Identity()
    recognizer = Recognizer(card, network)
    face = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
    recognizer(face, recognizer.sampling_grid(torch.from_numpy(landmarks)[None], 64))
    seen = network.seen[0].permute(1, 2, 0).numpy() * 255
    expected = warp(crop.astype(np.float32), box_transform(landmarks, card.box, card.size_hw), card.size_hw)
    # OpenCV interpolates with weights rounded to 1/32 of a pixel.
    assert np.abs(seen - expected).mean() < 1.5


def test_the_template_is_hit(cards_file):
    card = load_cards(cards_file)["open"]
    landmarks = ARCFACE_TEMPLATE * 2 + 7
    matrix = box_transform(landmarks, card.box, card.size_hw)
    mapped = landmarks @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(mapped, (ARCFACE_TEMPLATE + 0.5) / 4 - 0.5, atol=1e-9)


def test_a_target_without_pictures_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no picture of the target"):
        target_pictures(tmp_path)


def test_the_targets_embedding_is_the_unit_mean_of_its_pictures(cards_file, monkeypatch):
    """Mean colours along the axes (1, 0, 0) and (0, 1, 0), each of length 1: (1, 1, 0) / sqrt 2."""
    crops = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    crops[0, ..., 0] = 200
    crops[1, ..., 1] = 100
    landmarks = np.stack([crop_template(64)] * 2)
    monkeypatch.setattr("training.target.target_crops", lambda pictures: (crops, landmarks))
    monkeypatch.setattr("training.target.TARGET_CROP_PX", 64)
    [embedding] = target_embeddings([], [load_recognizer(load_cards(cards_file)["open"])])
    torch.testing.assert_close(embedding, torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))
