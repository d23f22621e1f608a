"""From a module to an ONNX graph: one file's worth, any batch, checked, and nothing of it on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import onnx
import torch
from onnx import ModelProto, ValueInfoProto
from torch import Tensor, nn

from runtime.manifest import TensorSpec

from .errors import ExportError

OPSET = 18
BATCH = "batch"


def to_onnx(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    metadata: Mapping[str, str],
    opset: int = OPSET,
) -> ModelProto:
    """Traces a module with ``torch.export`` and translates it, in memory.

    Args:
        module: in evaluation mode.
        examples: every input by its name in the graph, in ``forward``'s order, batch first; two or more
            rows, for a batch of one would be taken for a constant.
        outputs: names of the outputs.
        metadata: written into the model's properties.
        opset: version of ONNX's operators.

    Returns:
        A graph of that opset, constants folded, shapes inferred, the first axis of every input and
        output free, without the exporter's stack traces.

    Raises:
        ExportError: the module cannot be translated, or the graph is not valid or not of any batch.
    """
    batch = torch.export.Dim(BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own internals, nothing a caller could mend
        try:
            program = torch.onnx.export(
                module,
                tuple(examples.values()),
                input_names=list(examples),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: batch} for _ in examples),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"{type(module).__name__} cannot be translated to ONNX: {_root(error)}; build the "
                "network of operators that ONNX has"
            ) from error
    assert program is not None
    model = program.model_proto
    strip_provenance(model)
    onnx.helper.set_model_props(model, dict(metadata))
    model = checked(model)
    check_any_batch(model)
    return model


def _root(error: BaseException) -> BaseException:
    """What went wrong first: the exporter's own message is advice to PyTorch's developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def strip_provenance(model: ModelProto) -> None:
    """Removes the exporter's stack traces: they name files of this machine, and no runtime reads them."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for part in (model, graph, *graph.node, *graph.initializer, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def checked(model: ModelProto) -> ModelProto:
    """The model with its shapes inferred anew.

    Raises:
        ExportError: ONNX's checker or its shape inference refuses the model.
    """
    try:
        del model.graph.value_info[:]
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph is not valid ONNX: {error}; get the file again") from error
    return model


def check_any_batch(model: ModelProto) -> None:
    """Proves from the graph that the batch is free.

    Raises:
        ExportError: an input's or output's first axis is a number.
    """
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH:
            raise ExportError(
                f"the tensor {value.name!r} must be of any batch, but its shape is {_shape(value)}; "
                "the module's forward depends on the batch and must not"
            )


def input_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs as the manifest describes them."""
    return tuple(map(_spec, model.graph.input))


def output_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """The outputs as the manifest describes them."""
    return tuple(map(_spec, model.graph.output))


def _spec(value: ValueInfoProto) -> TensorSpec:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=_shape(value))


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
