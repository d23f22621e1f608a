"""The programs that latency compares: one network in every library, precision and form that is there.

A program takes named arrays and gives the network's output, like a backend; what prepares it, such as a
compiler, runs before the first timed call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import nn

from export.mixed import computing_in, to_fp16
from export.onnx_graph import to_onnx
from export.quantization import quantize_int8
from export.rewrites import BatchedBranches, JoinedEncoders, fold_batch_norms, to_subpixel
from export.run import Part
from export.wrappers import ProtectExport
from runtime.backends import create_backend
from runtime.backends.openvino import OpenVinoBackend
from runtime.errors import BackendError

Inputs = Mapping[str, NDArray]
Function = Callable[[Inputs], NDArray]

# The unrewritten graph in ONNX Runtime in float32: what every other program is compared with.
REFERENCE = "ONNX Runtime fp32"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One way to run a network.

    Attributes:
        name: library and precision, then the form of the network if it is not as trained.
        run: from inputs by name to the output.
    """

    name: str
    run: Function


def forms_of(part: Part) -> dict[str, nn.Module]:
    """The network as trained and after every rewrite, by name, each an export wrapper."""
    folded = fold_batch_norms(part.module)
    forms = {
        "": part.module,
        "folded": folded,
        "2x2": to_subpixel(folded, "2x2"),
        "3x3": to_subpixel(folded, "3x3"),
    }
    if isinstance(part.module, ProtectExport):
        generator = folded.generator
        joined = JoinedEncoders(generator.encoder, generator.perturbation_encoder)
        subpixel = forms["2x2"].generator
        twins = {
            "branches batched": BatchedBranches(generator),
            "2x2, branches batched": BatchedBranches(subpixel),
            "2x2, branches batched, encoders joined": BatchedBranches(subpixel, joined),
        }
        forms |= {name: ProtectExport(twin).eval() for name, twin in twins.items()}
    return forms


def programs_of(
    part: Part, inputs: Inputs, calibration: Inputs, *, threads: int, device: torch.device
) -> Iterator[Program]:
    """Every program that can be made here.

    Args:
        part: the network.
        inputs: an example of every input, two rows or more.
        calibration: rows that set int8's ranges.
        threads: CPU threads of each library.
        device: where PyTorch runs.

    Yields:
        The reference first.
    """
    forms = forms_of(part)
    graphs = {}
    for form, module in forms.items():
        examples = {name: torch.from_numpy(values[:2]) for name, values in inputs.items()}
        graphs[form] = to_onnx(module, examples, [part.output], metadata={})
    data = {form: graph.SerializeToString() for form, graph in graphs.items()}
    quantized = quantize_int8(graphs["2x2"], calibration).SerializeToString()

    for form, model in data.items():
        yield Program(name=_named("ONNX Runtime fp32", form), run=_backend("ort-cpu", model, threads))
    half = to_fp16(graphs["folded"]).SerializeToString()
    yield Program(name="ONNX Runtime fp16-mixed, folded", run=_backend("ort-cpu", half, threads))
    yield Program(name="ONNX Runtime int8, 2x2", run=_backend("ort-cpu", quantized, threads))
    if "CUDAExecutionProvider" in _providers():
        yield Program(name="ONNX Runtime CUDA fp32", run=_backend("ort-cuda", data[""], threads))
    for precision in ("fp32", "bf16"):
        try:
            for form in ("", "2x2", "3x3"):
                yield Program(
                    name=_named(f"OpenVINO {precision}", form),
                    run=_openvino(data[form], precision, threads),
                )
            yield Program(
                name=f"OpenVINO int8 and {precision}, 2x2", run=_openvino(quantized, precision, threads)
            )
        except BackendError:
            continue
    yield from _torch_programs(part, device)


def _torch_programs(part: Part, device: torch.device) -> Iterator[Program]:
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if dtype == torch.float16 and device.type == "cpu":
            continue
        module = copy.deepcopy(part.module)
        if dtype != torch.float32:
            module = computing_in(fold_batch_norms(module), dtype)
        module = module.to(device).to(memory_format=torch.channels_last)
        yield Program(name=f"PyTorch {kind}", run=_module(module, device))
        # On a GPU also as CUDA graphs, one for each batch size.
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        compiled = torch.compile(module, dynamic=False, mode=mode)
        yield Program(name=f"PyTorch {kind}, compiled", run=_module(compiled, device))


def _module(module: Callable[..., torch.Tensor], device: torch.device) -> Function:
    def run(inputs: Inputs) -> NDArray:
        with torch.inference_mode():
            output = module(*(torch.from_numpy(values).to(device) for values in inputs.values()))
        return output.cpu().numpy()  # waits for the device

    return run


def _backend(name: str, model: bytes, threads: int) -> Function:
    return _first_output(create_backend(name, model, threads=threads).run)


def _openvino(model: bytes, precision: str, threads: int) -> Function:
    backend = OpenVinoBackend(model, precision=precision, threads=threads, upsampling=None)  # type: ignore[arg-type]
    return _first_output(backend.run)


def _first_output(run: Callable[[Inputs], Mapping[str, NDArray]]) -> Function:
    return lambda inputs: next(iter(run(inputs).values()))


def _providers() -> list[str]:
    import onnxruntime

    return onnxruntime.get_available_providers()


def _named(library: str, form: str) -> str:
    return f"{library}, {form}" if form else library
