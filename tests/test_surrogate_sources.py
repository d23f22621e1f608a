"""Recognisers' sources, colour order and normalisation; in training and in evaluation."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import facenet_pytorch
import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization
from onnx import TensorProto, helper, save
from torch import nn

import training.surrogates
from runtime.geometry import ARCFACE_TEMPLATE, crop_template
from training.evaluation.recognition import OnnxRecognizer, TorchRecognizer, load_recognizers
from training.surrogates import Recognizer, RecognizerCard, SurrogateError, load_cards, load_recognizer

EXAMPLES = Path(training.surrogates.__file__).with_name("example_cards.json")


@pytest.fixture
def examples() -> dict[str, RecognizerCard]:
    return load_cards(EXAMPLES)


@pytest.fixture
def frbench(monkeypatch) -> ModuleType:
    """Stands for the package: one model, the mean colour of a 112x112 face."""

    class FR(nn.Module):
        input_size = (112, 112)

        def __init__(self, backbone, loss, dataset, *, eager_load):
            super().__init__()
            if (backbone, loss, dataset) != ("mobilefacenet", "arcface", "ms1m"):
                raise module.FRBenchError(f"Model '{backbone}_{loss}_{dataset}' not in manifest")
            self.register_buffer("weight", torch.ones(1))
            assert eager_load

        def forward(self, imgs, *, need_crop, tta):
            assert not need_crop
            assert tta == ()
            assert 2 < imgs.max() <= 255
            return SimpleNamespace(embeddings=imgs.mean((2, 3)) * self.weight)

    module = ModuleType("frbench")
    module.FR = FR
    module.FRBenchError = type("FRBenchError", (Exception,), {})
    module.configure_scoped = lambda update_check: contextlib.nullcontext()
    monkeypatch.setitem(sys.modules, "frbench", module)
    return module


def embed(recognizer: Recognizer, face: torch.Tensor) -> torch.Tensor:
    landmarks = torch.from_numpy(crop_template(64)).expand(len(face), 5, 2)
    return recognizer(face, recognizer.sampling_grid(landmarks, 64))


def assert_gradient_reaches_the_face(recognizer: Recognizer) -> None:
    face = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    embed(recognizer, face)[:, 0].sum().backward()
    assert face.grad.isfinite().all()
    assert face.grad.abs().sum() > 0


def test_colour_order_and_normalisation_by_hand(tmp_path):
    """RGB (0.2, 0.6, 1) is BGR (1, 0.6, 0.2); less (0.5, 0.2, 0), over (0.25, 0.5, 1): (2, 0.8, 0.2).

    The network is the mean colour, so the embedding is that, normed: in training, and in both evaluators.
    """
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 28, 28])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["face"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(nodes, "mean", [face], [embedding])
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "mean.onnx")
    card = RecognizerCard(
        name="mean",
        path=tmp_path / "mean.onnx",
        role="black-box",
        size_hw=(28, 28),
        box=(0, 0, 112, 112),
        mean=(0.5, 0.2, 0.0),
        std=(0.25, 0.5, 1.0),
        colour="bgr",
    )
    expected = np.array([2, 0.8, 0.2]) / np.linalg.norm([2, 0.8, 0.2])
    flat = torch.tensor([0.2, 0.6, 1.0])[None, :, None, None].expand(1, 3, 64, 64)
    recognizer = load_recognizer(card)
    np.testing.assert_allclose(embed(recognizer, flat * 2 - 1)[0].numpy(), expected, atol=1e-6)
    assert_gradient_reaches_the_face(recognizer)
    picture = np.full((112, 112, 3), (51, 153, 255), dtype=np.uint8)
    for evaluator in (OnnxRecognizer(card), TorchRecognizer(card)):
        np.testing.assert_allclose(evaluator.embed(picture, ARCFACE_TEMPLATE), expected, atol=1e-6)


def test_facenet_from_a_file(examples, tmp_path, monkeypatch):
    """The file's classifier is left out, nothing is downloaded, and its own standardisation is the card's."""
    monkeypatch.setattr("facenet_pytorch.models.inception_resnet_v1.load_weights", None)
    torch.manual_seed(0)
    network = InceptionResnetV1().eval()
    torch.save({**network.state_dict(), "logits.weight": torch.zeros(2, 512)}, tmp_path / "facenet.pt")
    card = dataclasses.replace(examples["facenet_vggface2"], path=tmp_path / "facenet.pt")
    recognizer = load_recognizer(card)
    aligned = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = network(fixed_image_standardization(aligned * 255))
        torch.testing.assert_close(recognizer.embed(aligned), expected, atol=1e-5, rtol=0)
    assert_gradient_reaches_the_face(recognizer)


def test_facenet_errors_name_the_way_out(examples, tmp_path, monkeypatch):
    def offline(pretrained=None):
        if pretrained:
            raise OSError("no network")
        return nn.Linear(2, 2)

    monkeypatch.setattr(facenet_pytorch, "InceptionResnetV1", offline)
    card = examples["facenet_vggface2"]
    with pytest.raises(SurrogateError, match=r"facenet_vggface2: .*\(no network\); .*card's field file"):
        load_recognizer(card)
    with pytest.raises(SurrogateError, match="weights vggface2 or casia-webface, found 'other'"):
        load_recognizer(dataclasses.replace(card, weights="other"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(SurrogateError, match=r"other.pt is not a state dict of InceptionResnetV1"):
        load_recognizer(dataclasses.replace(card, path=tmp_path / "other.pt"))


def test_frbench_gets_aligned_faces_in_its_own_range(examples, frbench):
    recognizer = load_recognizer(examples["frbench_mobilefacenet"])
    face = torch.tensor([-1.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 64, 64)
    torch.testing.assert_close(embed(recognizer, face), torch.tensor([[0, 1, 2]]) / 5**0.5)
    assert_gradient_reaches_the_face(recognizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "nothing_arcface_ms1m"}, "cannot load nothing_arcface_ms1m: Model .* not in manifest"),
        ({"weights": "mobilefacenet"}, "expected weights BACKBONE_LOSS_DATASET .* found 'mobilefacenet'"),
        ({"size_hw": (160, 160)}, r"expected size \[112, 112\], found \(160, 160\)"),
        ({"colour": "bgr"}, "normalises by itself; leave mean, std and colour out"),
    ],
)
def test_a_card_that_does_not_fit_frbench_is_named(examples, frbench, change, message):
    with pytest.raises(SurrogateError, match=f"frbench_mobilefacenet: .*{message}"):
        load_recognizer(dataclasses.replace(examples["frbench_mobilefacenet"], **change))


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("my_arcface", "onnx2torch", r"erasablemask\[train\]"),
        ("facenet_vggface2", "facenet_pytorch", r"erasablemask\[train\]"),
        ("frbench_mobilefacenet", "frbench", "frbench"),
    ],
)
def test_a_missing_package_is_named(examples, monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SurrogateError, match=f"{name}: .* package {package} .*pip install '{install}'"):
        load_recognizer(examples[name])


def test_evaluation_takes_every_source(tmp_path, frbench):
    card = json.loads(EXAMPLES.read_text())["models"]["frbench_mobilefacenet"]
    (tmp_path / "cards.json").write_text(json.dumps({"models": {"zoo": card}}))
    (recognizer,) = load_recognizers(tmp_path)
    picture = np.full((112, 112, 3), (0, 100, 200), dtype=np.uint8)
    found = recognizer.embed(picture, ARCFACE_TEMPLATE)
    np.testing.assert_allclose(found, np.array([0, 1, 2]) / 5**0.5, atol=1e-6)
    assert len(recognizer.sha256) == 64
    with pytest.raises(ValueError, match="zoo is from frbench: only an ONNX file"):
        OnnxRecognizer(recognizer.card)
