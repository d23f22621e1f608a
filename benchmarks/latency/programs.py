"""The programs that latency compares: one network in every library, precision and form that is there.

A program takes named arrays and gives the network's output, like a backend; what prepares it, such as a
compiler, runs before the first timed call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from export.mixed import computing_in, to_fp16
from export.onnx_graph import to_onnx
from export.quantization import quantize_int8
from export.quantized_moves import quantize_before_moves
from export.rewrites import BatchedBranches, EarlyMix, JoinedEncoders, fold_batch_norms, to_subpixel
from export.run import Part
from export.wrappers import ProtectExport
from runtime.backends.openvino import Computing, OpenVinoBackend
from runtime.backends.ort import OrtBackend
from runtime.errors import BackendError
from training.networks import Generator

from .streams import StreamsBackend

Inputs = Mapping[str, NDArray]
Function = Callable[[Inputs], NDArray]

# The unrewritten graph in ONNX Runtime in float32: what every other program is compared with.
REFERENCE = "ONNX Runtime fp32"

_BATCHED = "2x2, branches batched"
_JOINED = "2x2, branches batched, encoders joined"
_EARLY = "2x2, mixed early"


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
        generator = cast(Generator, folded.generator)
        joined = JoinedEncoders(generator.encoder, generator.perturbation_encoder)
        subpixel = cast(Generator, forms["2x2"].generator)
        twins = {
            "branches batched": BatchedBranches(generator),
            _BATCHED: BatchedBranches(subpixel),
            _JOINED: BatchedBranches(subpixel, joined),
            _EARLY: EarlyMix(subpixel),
        }
        forms |= {name: ProtectExport(cast(Generator, twin)).eval() for name, twin in twins.items()}
    return forms


def programs_of(
    part: Part,
    inputs: Inputs,
    calibration: Inputs,
    *,
    threads: int,
    device: torch.device,
    only: Collection[str] = (),
) -> tuple[list[Program], dict[str, str]]:
    """Every program that can be made here, the reference first, and why others cannot, by their name.

    A network that must be computed in float32 has no programs in less.

    Args:
        part: the network.
        inputs: an example of every input, two rows or more.
        calibration: rows that set int8's ranges.
        threads: CPU threads of each library.
        device: where PyTorch runs.
        only: parts of the names of those to make, beside the reference; none named: all.
    """

    def wanted(name: str) -> bool:
        return not only or name == REFERENCE or any(part in name for part in only)

    graphs = {form: _graph(part, module, inputs) for form, module in forms_of(part).items()}
    data = {form: graph.SerializeToString() for form, graph in graphs.items()}

    def ort(model: bytes, provider: str = "cpu") -> Callable[[], Function]:
        """As fast as one network alone is: with spinning threads, ONNX Runtime's own default."""
        return lambda: _first_output(OrtBackend(model, provider=provider, threads=threads, spinning=True).run)

    def openvino(model: bytes, precision: Computing) -> Callable[[], Function]:
        return lambda: _first_output(
            OpenVinoBackend(model, precision=precision, threads=threads, upsampling=None).run
        )

    def streams(model: bytes) -> Callable[[], Function]:
        return lambda: _first_output(StreamsBackend(model, threads=threads).run)

    makers = {_named("ONNX Runtime fp32", form): ort(model) for form, model in data.items()}
    makers["ONNX Runtime CUDA fp32"] = ort(data[""], "cuda")
    precisions: tuple[Computing, ...] = ("fp32",) if part.in_float32 else ("fp32", "bf16")
    for precision in precisions:
        for form in ("", "2x2", "3x3", _BATCHED, _JOINED):
            if form in data:  # a restorer has no twins
                makers[_named(f"OpenVINO {precision}", form)] = openvino(data[form], precision)
    if not part.in_float32:
        half = to_fp16(graphs["folded"]).SerializeToString()
        int8 = _int8(graphs, calibration)
        makers["ONNX Runtime fp16-mixed, folded"] = ort(half)
        makers["ONNX Runtime CUDA fp16-mixed, folded"] = ort(half, "cuda")
        makers["ONNX Runtime int8, 2x2"] = ort(int8["2x2"])
        for precision in precisions:
            makers[f"OpenVINO int8 and {precision}, 2x2"] = openvino(int8["2x2"], precision)
        makers["OpenVINO int8 and bf16, 2x2, moved in int8"] = openvino(int8["2x2, moved in int8"], "bf16")
        for form, model in int8.items():
            makers[f"OpenVINO int8 and bf16, {form}, a stream a thread"] = streams(model)
    programs, missing = [], {}
    for name, make in makers.items():
        if not wanted(name):
            continue
        try:
            programs.append(Program(name=name, run=make()))
        except BackendError as error:
            missing[name] = str(error)
    return [*programs, *(p for p in _torch_programs(part, device) if wanted(p.name))], missing


def int8_graphs(part: Part, inputs: Inputs, calibration: Inputs) -> dict[str, bytes]:
    """The network in int8, by form: as it is exported, and with its values moved in int8."""
    forms = {form: module for form, module in forms_of(part).items() if form in ("2x2", _EARLY)}
    return _int8({form: _graph(part, module, inputs) for form, module in forms.items()}, calibration)


def _int8(graphs: Mapping[str, ModelProto], calibration: Inputs) -> dict[str, bytes]:
    """The restorer has nothing to mix, so its values can be moved in int8 as they are."""
    moved = quantize_before_moves(quantize_int8(graphs.get(_EARLY, graphs["2x2"]), calibration))
    return {
        "2x2": quantize_int8(graphs["2x2"], calibration).SerializeToString(),
        "2x2, moved in int8": moved.SerializeToString(),
    }


def _graph(part: Part, module: nn.Module, inputs: Inputs) -> ModelProto:
    examples = {name: torch.from_numpy(values[:2]) for name, values in inputs.items()}
    return to_onnx(module, examples, [part.output], metadata={})


def _torch_programs(part: Part, device: torch.device) -> Iterator[Program]:
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if dtype != torch.float32 and part.in_float32:
            continue
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


def _first_output(run: Callable[[Inputs], Mapping[str, NDArray]]) -> Function:
    return lambda inputs: next(iter(run(inputs).values()))


def _named(library: str, form: str) -> str:
    return f"{library}, {form}" if form else library
