"""What OpenVINO leaves undone: its transposed convolutions have no fast program for reduced precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..subpixel import SubpixelForm, subpixel_weights

# The shape of transposed convolution that ``subpixel_weights`` takes.
_ATTRIBUTES = {
    "strides": [2, 2],
    "pads_begin": [1, 1],
    "pads_end": [1, 1],
    "dilations": [1, 1],
    "output_padding": [0, 0],
}
_KERNEL = (4, 4)


def replace_transposed(model: Any, form: SubpixelForm) -> int:
    """Puts a sub-pixel convolution in the place of every transposed 4x4 convolution of stride 2.

    The bias and the activation behind it move in front of the shuffle, where they cost no pass of their own.

    Args:
        model: an ``openvino.Model``; changed in place.
        form: see ``runtime.subpixel``.

    Returns:
        How many were replaced. Transposed convolutions of another shape stay.
    """
    from openvino import opset13 as ops

    replaced = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ConvolutionBackpropData" or node.get_input_size() != 2:
            continue
        weight = _constant(node.input(1).get_source_output().get_node())
        attributes = node.get_attributes()
        if (
            weight is None
            or weight.shape[2:] != _KERNEL
            or any(attributes[name] != value for name, value in _ATTRIBUTES.items())
        ):
            continue
        source, last = node.input_value(0), node
        kind = node.get_input_element_type(1)
        spread = ops.constant(subpixel_weights(weight, form), kind)
        channels = ops.convolution(source, spread, [1, 1], [1, 1], [1, 1], [1, 1])
        while (behind := _only_consumer(last)) is not None:
            bias = _bias(behind, weight.shape[1])
            if bias is not None:
                channels = ops.add(channels, ops.constant(bias.repeat(4).reshape(1, -1, 1, 1), kind))
            elif behind.get_type_name() == "Relu":
                channels = ops.relu(channels)
            elif behind.get_type_name() == "Tanh":
                channels = ops.tanh(channels)
            else:
                break
            last = behind
        picture = ops.depth_to_space(channels, "depth_first", 2)
        if form == "2x2":
            picture = ops.slice(picture, [1, 1], [-1, -1], [1, 1], [2, 3])
        last.output(0).replace(picture.output(0))
        replaced += 1
    model.validate_nodes_and_infer_types()
    return replaced


def _constant(node: Any) -> np.ndarray | None:
    """The values of a constant as float32, also of one that is stored in another type."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float32) if node.get_type_name() == "Constant" else None


def _only_consumer(node: Any) -> Any | None:
    consumers = list(node.output(0).get_target_inputs())
    return consumers[0].get_node() if len(consumers) == 1 else None


def _bias(node: Any, channels: int) -> np.ndarray | None:
    """What an addition adds to each channel, None if it adds something else."""
    if node.get_type_name() != "Add":
        return None
    for side in (0, 1):
        added = _constant(node.input_value(side).get_node())
        if added is not None and added.shape == (1, channels, 1, 1):
            return added.ravel()
    return None
