"""Exports the face detector, facenet-pytorch's MTCNN, so that the runtime finds faces without torch.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016.
The weights come inside the facenet-pytorch package (MIT licence).
"""

from __future__ import annotations

import copy
import logging
import warnings

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from .onnx_graph import OPSET, strip_provenance

logger = logging.getLogger(__name__)


class StageNet(nn.Module):
    """One of MTCNN's three networks with the pixels' scaling inside.

    Input: float32 ``(N, H, W, 3)`` RGB in [0, 255]; float, since shrunken pixels are means. Outputs, channels
    last, float32: the probability of a face ``(N, ...)``, the box's correction ``(N, ..., 4)`` as fractions
    of its sides (left, top, right, bottom), and from O-Net the landmarks ``(N, 5, 2)``, x and y as fractions
    of the box's sides. The dots are P-Net's grid ``(h, w)``, of stride 2, and nothing for the two others.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # A copy: the caller's network keeps its parameters' requires_grad.
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        scaled = (pixels.permute(0, 3, 1, 2) - 127.5) / 128.0
        boxes, *points, probabilities = self.net(scaled)
        if boxes.ndim == 4:
            boxes = boxes.permute(0, 2, 3, 1)
        # O-Net gives five x, then five y.
        landmarks = [point.reshape(-1, 2, 5).permute(0, 2, 1) for point in points]
        return probabilities[:, 1], boxes, *landmarks


def export_detector(opset: int = OPSET) -> dict[str, ModelProto]:
    """The three networks as ONNX, about 2 MB in all, in memory.

    Args:
        opset: a bundle has one for all its networks.

    Returns:
        The graphs by the name of the network: ``pnet``, ``rnet``, ``onet``. Each takes ``pixels``, float32
        ``(N, H, W, 3)``, of any batch; P-Net of any height and width, R-Net 24x24, O-Net 48x48; and gives
        ``probabilities``, ``boxes`` and, O-Net only, ``landmarks`` (see ``StageNet``).
    """
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    stages = {"pnet": (PNet(), 36), "rnet": (RNet(), 24), "onet": (ONet(), 48)}
    graphs = {}
    for name, (net, side) in stages.items():
        graphs[name] = _export(
            StageNet(net), side=side, any_size=name == "pnet", landmarks=name == "onet", opset=opset
        )
        logger.info("exported %s: %d kB", name, graphs[name].ByteSize() // 1000)
    return graphs


def _export(net: nn.Module, *, side: int, any_size: bool, landmarks: bool, opset: int) -> ModelProto:
    dynamic = {0: torch.export.Dim.DYNAMIC}
    if any_size:
        dynamic |= {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own internals, nothing a caller could mend
        program = torch.onnx.export(
            net,
            (torch.zeros(2, side, side + (4 if any_size else 0), 3),),
            input_names=["pixels"],
            output_names=["probabilities", "boxes", *(["landmarks"] if landmarks else [])],
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip_provenance(model)
    onnx.checker.check_model(model, full_check=True)
    return model
