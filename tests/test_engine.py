"""Plans are really built here, by TensorRT-RTX, which needs no GPU for it.

Its module has TensorRT's interface, so what only plain TensorRT takes is tried on it under that name.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export import engine as engine_module
from export.engine import AMPERE_PLUS, Engine, EngineOptions, build_engine, write_engine
from export.engine_precision import check_network_precision
from export.errors import ExportError, PrecisionError
from export.faces import inputs_of, synthetic_faces
from export.gpu import Gpu
from export.onnx_graph import to_onnx
from export.precision import store_fp16
from export.run import load_run
from export.timing_cache import attach_timing_cache, save_timing_cache, timing_cache_path
from runtime.engine_sidecar import BatchProfile, EngineSidecar, read_engine, sidecar_path
from runtime.errors import BackendError, MissingExtraError
from runtime.manifest import sha256_of
from runtime.tensorrt_library import load_tensorrt

from .conftest import onnx_bytes
from .tiny_run import SIZE, save_run

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra dev)")

SIDE = 8
RTX = EngineOptions(flavour="tensorrt_rtx", batch=BatchProfile(min=1, opt=2, max=4))
H200 = Gpu(name="NVIDIA H200", architecture="9.0", cuda_version="13.0")


def convolution(
    dtype: type = np.float32, *, operator: str = "Conv", batch: str | int = "n", side: str | int = SIDE
) -> bytes:
    """``y = conv(x)`` between pictures uint8 in and float32 out, computed in ``dtype``."""
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(dtype)
    graph = [
        helper.make_node("Cast", ["x"], ["x_"], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
        helper.make_node(operator, ["x_", "W"], ["y_"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["y_"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs = {"x": (TensorProto.UINT8, [batch, 3, side, side])}
    outputs = {"y": (TensorProto.FLOAT, [batch, 16, side, side])}
    return onnx_bytes(graph, inputs, outputs, {"W": weights})


def as_tensorrt(**changes: Any) -> ModuleType:
    """The real library under the name of plain TensorRT, whose other traits are ``changes``."""
    module = ModuleType("tensorrt")
    vars(module).update({name: value for name, value in vars(trt).items() if not name.startswith("__")})
    module.__version__ = "10.3.0"  # type: ignore[attr-defined]
    vars(module).update(changes)
    return module


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    """Options for plain TensorRT, on a machine that has it and an H200."""
    monkeypatch.setitem(sys.modules, "tensorrt", as_tensorrt())
    monkeypatch.setattr(engine_module, "find_gpu", lambda: H200)
    return EngineOptions(flavour="tensorrt", batch=BatchProfile(min=1, opt=2, max=4))


def test_builds_a_plan_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "find_gpu", lambda: None)
    model = convolution()
    engine = build_engine(model, precision="fp32", options=RTX)
    assert len(engine.plan) > 16 * 3 * 9 * 4
    assert 0 < engine.sidecar.build_s < 60
    assert engine.sidecar == EngineSidecar(
        onnx_sha256=sha256_of(model),
        plan_sha256=sha256_of(engine.plan),
        flavour="tensorrt_rtx",
        flavour_version=trt.__version__,
        cuda_version=None,
        architectures=("8.0", "8.6", "8.9", "12.0"),
        hardware_compatible=True,
        version_compatible=False,
        batch=BatchProfile(min=1, opt=2, max=4),
        precision="fp32",
        build_s=engine.sidecar.build_s,
    )
    engine.sidecar.check(
        engine.plan,
        onnx_sha256=sha256_of(model),
        flavour="tensorrt_rtx",
        flavour_version=trt.__version__,
        architecture="8.9",
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The project's own networks, small, as ONNX."""
    run = load_run(save_run(tmp_path_factory.mktemp("run")))
    graphs = {}
    for part in run.parts:
        inputs = inputs_of(part.name, synthetic_faces(2, SIZE), len(run.attributes))
        examples = {name: torch.from_numpy(values) for name, values in inputs.items()}
        graphs[part.name] = to_onnx(part.module, examples, [part.output], metadata={}).SerializeToString()
    return graphs


@pytest.mark.parametrize("network", ["protect", "attributes", "restore"])
def test_the_exported_networks_build(exported: dict[str, bytes], network: str) -> None:
    """With all that surrounds the convolutions: uint8 at both ends, knobs, two branches."""
    assert build_engine(exported[network], precision="fp32", options=RTX).sidecar.precision == "fp32"


def test_the_detectors_networks_of_a_fixed_size_build(detector_files: dict[str, bytes]) -> None:
    """P-Net takes any size, for which there is no profile."""
    for name in ("rnet", "onet"):
        assert build_engine(detector_files[name], precision="fp32", options=RTX).plan
    with pytest.raises(ExportError, match="must be of any batch and else of fixed shape"):
        build_engine(detector_files["pnet"], precision="fp32", options=RTX)


def test_the_batch_profile_is_in_the_plan() -> None:
    """Nothing else differs between the two, and the same options give the same plan."""
    model = convolution()
    small, again, large = (
        build_engine(model, precision="fp32", options=replace(RTX, batch=batch)).plan
        for batch in (BatchProfile(max=8), BatchProfile(max=8), BatchProfile(max=9))
    )
    assert small == again
    assert small != large


def test_the_graph_decides_the_precision() -> None:
    for dtype, precision in ((np.float32, "fp32"), (np.float16, "fp16")):
        assert (
            build_engine(convolution(dtype), precision=precision, options=RTX).sidecar.precision == precision
        )


@pytest.mark.parametrize(("dtype", "demanded"), [(np.float32, "fp16"), (np.float16, "fp32")])
def test_a_precision_that_would_not_be_delivered_is_an_error(dtype: type, demanded: str) -> None:
    found = {"fp16": "FLOAT", "fp32": "HALF"}[demanded]
    with pytest.raises(PrecisionError, match=rf"asked for {demanded}, .*1 of 1 .*first \({found}\)"):
        build_engine(convolution(dtype), precision=demanded, options=RTX)


def test_weights_stored_in_float16_are_computed_with_in_float32() -> None:
    model = store_fp16(onnx.load_from_string(convolution())).SerializeToString()
    assert build_engine(model, precision="fp32", options=RTX).sidecar.precision == "fp32"
    with pytest.raises(PrecisionError, match="convert that"):
        build_engine(model, precision="fp16", options=RTX)


def test_one_convolution_of_many_in_another_precision_is_named() -> None:
    halves = np.ones((4, 4, 1, 1), np.float16)
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["h"], name="wide"),
        helper.make_node("Cast", ["h"], ["h_"], to=TensorProto.FLOAT16),
        helper.make_node("ConvTranspose", ["h_", "V"], ["y"], name="narrow"),
    ]
    picture = ["n", 4, SIDE, SIDE]
    model = onnx_bytes(
        nodes,
        {"x": (TensorProto.FLOAT, picture)},
        {"y": (TensorProto.FLOAT16, picture)},
        {"W": halves.astype(np.float32), "V": halves},
    )
    with pytest.raises(PrecisionError, match=r"1 of 2 convolutions have other types: narrow \(HALF\)"):
        build_engine(model, precision="fp32", options=RTX)
    with pytest.raises(PrecisionError, match=r"1 of 2 convolutions have other types: wide \(FLOAT\)"):
        build_engine(model, precision="fp16", options=RTX)


def test_a_convolution_of_two_types_is_neither() -> None:
    """A layer that takes float16 and gives float32, as a stand-in: the parser makes none."""
    half, single = (SimpleNamespace(dtype=dtype) for dtype in (trt.DataType.HALF, trt.DataType.FLOAT))
    layer = SimpleNamespace(name="c", type=trt.LayerType.CONVOLUTION, num_inputs=2, num_outputs=1)
    layer.get_input, layer.get_output = [half, None].__getitem__, [single].__getitem__
    network = SimpleNamespace(num_layers=1, get_layer=[layer].__getitem__)
    for precision in ("fp16", "fp32"):
        with pytest.raises(PrecisionError, match=r"c \(FLOAT, HALF\)"):
            check_network_precision(trt, network, precision, b"")


def test_a_precision_that_cannot_be_verified_is_an_error() -> None:
    vector = (TensorProto.FLOAT, ["n", 2])
    model = onnx_bytes([helper.make_node("Relu", ["x"], ["y"])], {"x": vector}, {"y": vector}, {})
    with pytest.raises(PrecisionError, match="no convolution to verify it on"):
        build_engine(model, precision="fp32", options=RTX)
    with pytest.raises(PrecisionError, match="unknown precision 'int4' of an engine; known: fp32, fp16"):
        build_engine(model, precision="int4", options=RTX)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"no network" * 20, "cannot parse the ONNX file: .*Failed to parse the ONNX model"),
        (convolution()[:-40], "cannot parse the ONNX file: .*Failed to parse the ONNX model"),
        (b"", "no outputs in the ONNX file, which is empty or cut short"),
    ],
)
def test_what_is_no_network_is_refused_in_the_parsers_words(model: bytes, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build_engine(model, precision="fp32", options=RTX)


def test_an_unknown_operator_is_named() -> None:
    graph = onnx.load_from_string(convolution())
    graph.graph.node[1].op_type = "Convolute"
    with pytest.raises(ExportError, match=r"node 1 \(Convolute 'first'\): .*Plugin not found"):
        build_engine(graph.SerializeToString(), precision="fp32", options=RTX)


@pytest.mark.parametrize("shape", [{"batch": 2}, {"side": "s"}])
def test_an_input_of_a_fixed_batch_or_a_free_side_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="input 'x' must be of any batch and else of fixed shape"):
        build_engine(convolution(**shape), precision="fp32", options=RTX)


def test_builds_for_named_gpus() -> None:
    plans = {}
    for target in ((), (AMPERE_PLUS,), ("7.5",), ("8.9", "12.0")):
        engine = build_engine(convolution(), precision="fp32", options=replace(RTX, target_gpu=target))
        plans[target] = engine.plan
        if target in ((), (AMPERE_PLUS,)):
            assert (engine.sidecar.architectures[-1], engine.sidecar.hardware_compatible) == ("12.0", True)
        else:
            assert (engine.sidecar.architectures, engine.sidecar.hardware_compatible) == (target, False)
    assert plans[()] == plans[(AMPERE_PLUS,)]
    assert len({*plans.values()}) == 3


@pytest.mark.parametrize("target", [("1.0",), ("8.9", "8.9"), ("8.9", AMPERE_PLUS), ("SM89",)])
def test_a_gpu_that_is_not_available_is_an_error_that_names_those_that_are(target: tuple[str, ...]) -> None:
    with pytest.raises(
        ExportError, match=r"cannot build for the GPU .*available, each once: 7\.5, 8\.0.*, or 8\.0\+"
    ):
        build_engine(convolution(), precision="fp32", options=replace(RTX, target_gpu=target))


def test_a_workspace_that_is_too_small_fails_in_tensorrts_words() -> None:
    options = replace(RTX, workspace_bytes=1024)
    with pytest.raises(ExportError, match=r"cannot build the engine: .*workspace limit"):
        build_engine(convolution(), precision="fp32", options=options)
    with pytest.raises(ValueError, match="workspace_bytes must be at least 1, or None, found 0"):
        EngineOptions(workspace_bytes=0)
    assert build_engine(convolution(), precision="fp32", options=replace(RTX, workspace_bytes=2**30)).plan


def test_what_tensorrt_rtx_has_not_is_refused_before_any_work(tmp_path: Path) -> None:
    for change, message in (
        ({"version_compatible": True}, "no plans for other versions than its own"),
        ({"timing_cache": tmp_path}, "measures nothing when it builds"),
    ):
        with pytest.raises(ExportError, match=message):
            build_engine(b"never read", precision="fp32", options=replace(RTX, **change))


def test_the_log_goes_to_logging_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        build_engine(convolution(), precision="fp32", options=RTX)
    told = [record for record in caplog.records if record.name == "runtime.tensorrt_library"]
    assert any("Engine generation completed" in record.getMessage() for record in told)
    assert capfd.readouterr() == ("", "")


def test_plain_tensorrt_builds_for_the_gpu_it_has(plain: EngineOptions) -> None:
    sidecar = build_engine(convolution(), precision="fp32", options=plain).sidecar
    assert (sidecar.flavour, sidecar.flavour_version, sidecar.cuda_version) == ("tensorrt", "10.3.0", "13.0")
    assert (sidecar.architectures, sidecar.hardware_compatible) == (("9.0",), False)


def test_plain_tensorrt_names_its_one_other_target(plain: EngineOptions) -> None:
    with pytest.raises(ExportError, match=r"available, each once: none named, .* or 8\.0\+ alone"):
        build_engine(convolution(), precision="fp32", options=replace(plain, target_gpu=("8.9",)))


def test_plain_tensorrts_flags_are_set(plain: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for the configuration: TensorRT-RTX takes neither."""
    configured = SimpleNamespace(flags=[], hardware_compatibility_level=None)
    configured.set_flag = configured.flags.append
    options = replace(plain, version_compatible=True, target_gpu=(AMPERE_PLUS,))
    engine_module.check_available(load_tensorrt("tensorrt"), options)
    engine_module._configure(load_tensorrt("tensorrt"), configured, options)
    assert configured.flags == [trt.BuilderFlag.VERSION_COMPATIBLE]
    assert configured.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert engine_module._architectures(options, H200) == (("8.0",), True)


def test_a_library_without_the_flag_builds_strongly_typed_all_the_same(
    plain: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 11 has no other networks, and may have no flag."""
    with_flag = build_engine(convolution(np.float16), precision="fp16", options=plain)
    newer = as_tensorrt(NetworkDefinitionCreationFlag=SimpleNamespace(), __version__="11.4.0")
    monkeypatch.setitem(sys.modules, "tensorrt", newer)
    without = build_engine(convolution(np.float16), precision="fp16", options=plain)
    assert without.plan == with_flag.plan
    assert without.sidecar.flavour_version == "11.4.0"


def test_a_builder_that_cannot_start_is_an_error(
    plain: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What plain TensorRT's bindings raise on a machine without a GPU."""

    def builder(log: Any) -> None:
        log.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setitem(sys.modules, "tensorrt", as_tensorrt(Builder=builder))
    with pytest.raises(
        ExportError, match=r"cannot start: CUDA initialization failure.*machine with an NVIDIA GPU"
    ):
        build_engine(convolution(), precision="fp32", options=plain)


def test_a_timing_cache_is_kept_for_one_gpu_and_version(plain: EngineOptions, tmp_path: Path) -> None:
    options = replace(plain, timing_cache=tmp_path / "caches")
    build_engine(convolution(), precision="fp32", options=options)
    (cache,) = (tmp_path / "caches").iterdir()
    assert cache.name == "nvidia-h200-sm9.0-tensorrt-10.3.0.timing"
    assert cache.stat().st_size > 0


def test_a_damaged_timing_cache_is_ignored_with_a_warning_and_replaced(
    plain: EngineOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = timing_cache_path(tmp_path, H200, "10.3.0")
    cache.write_bytes(b"damaged" * 100)
    with caplog.at_level(logging.WARNING):
        assert build_engine(
            convolution(), precision="fp32", options=replace(plain, timing_cache=tmp_path)
        ).plan
    assert "Failed to deserialize timing cache" in caplog.text
    assert b"damaged" not in cache.read_bytes()


class Config:
    """A ``trt.IBuilderConfig`` that takes only the timing caches that a test allows."""

    def __init__(self, *taken: bytes) -> None:
        self.taken = taken
        self.attached: bytes | None = None

    def create_timing_cache(self, measured: bytes) -> SimpleNamespace:
        return SimpleNamespace(measured=measured, serialize=lambda: b"measured anew")

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.measured in self.taken:
            self.attached = cache.measured
        return cache.measured in self.taken

    def get_timing_cache(self) -> SimpleNamespace:
        return self.create_timing_cache(self.attached or b"")


def test_a_timing_cache_of_another_gpu_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"measured elsewhere")
    config = Config(b"")
    attach_timing_cache(config, cache)
    assert config.attached == b""
    assert "is damaged or of another GPU or version, and is ignored" in caplog.text
    save_timing_cache(config, cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert cache.read_bytes() == b"measured anew"


def test_a_timing_cache_that_fits_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"measured here")
    config = Config(b"measured here", b"")
    attach_timing_cache(config, cache)
    assert config.attached == b"measured here"
    assert caplog.text == ""


def test_a_timing_cache_that_cannot_be_read_or_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    config = Config(b"")
    attach_timing_cache(config, folder)
    assert config.attached == b""
    assert "cannot be read and is ignored" in caplog.text
    save_timing_cache(config, folder)
    assert "cannot be written" in caplog.text
    assert list(tmp_path.iterdir()) == [folder]


def test_no_timing_cache_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not even an empty one"):
        attach_timing_cache(Config(), tmp_path / "cache")


def test_a_timing_cache_needs_a_gpu(
    plain: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "find_gpu", lambda: None)
    with pytest.raises(ExportError, match="belongs to one GPU, and NVIDIA's driver shows none"):
        build_engine(convolution(), precision="fp32", options=replace(plain, timing_cache=tmp_path))


@pytest.fixture(scope="module")
def built() -> Engine:
    return build_engine(convolution(), precision="fp32", options=RTX)


def test_writes_a_plan_that_reads_back(built: Engine, tmp_path: Path) -> None:
    path = tmp_path / "protect.plan"
    path.write_bytes(b"the plan before")
    write_engine(path, built)
    assert read_engine(path) == (built.plan, built.sidecar)
    assert {p.name for p in tmp_path.iterdir()} == {"protect.plan", "protect.plan.json"}


def test_a_disk_that_is_full_leaves_what_was_there(built: Engine, tmp_path: Path) -> None:
    """The limit of a file's size stands in for the disk's: the write fails half way."""
    resource = pytest.importorskip("resource", reason="needs POSIX resource limits")
    path = tmp_path / "protect.plan"
    old = replace(built, plan=b"the plan before")
    write_engine(path, old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(built.plan) // 2, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write .*protect\.plan: File too large"):
            write_engine(path, built)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_engine(path) == (old.plan, old.sidecar)
    assert {p.name for p in tmp_path.iterdir()} == {"protect.plan", "protect.plan.json"}


def test_an_interruption_between_the_two_files_is_noticed_when_the_plan_is_loaded(
    built: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "protect.plan"
    write_engine(path, replace(built, plan=b"the plan before"))
    sidecar_path(path).unlink()
    sidecar_path(path).mkdir()  # cannot be replaced by a file
    with pytest.raises(ExportError, match="cannot write"):
        write_engine(path, built)
    assert path.read_bytes() == built.plan
    assert not list(tmp_path.glob(".*"))
    mixed = replace(built.sidecar, plan_sha256=sha256_of(b"the plan before"))
    with pytest.raises(BackendError, match="the plan's SHA-256 differs"):
        mixed.check(
            path.read_bytes(),
            onnx_sha256=None,
            flavour=mixed.flavour,
            flavour_version=mixed.flavour_version,
            architecture="8.9",
        )


def test_a_folder_that_is_not_there_is_an_error(built: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        with pytest.raises(ExportError, match="cannot write"):
            write_engine(tmp_path / folder / "protect.plan", built)


def test_libraries_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_tensorrt("tensorrt_rtx") is trt
    with pytest.raises(BackendError, match="unknown flavour of TensorRT 'os'; known: tensorrt, tensorrt_rtx"):
        load_tensorrt("os")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=re.escape("'tensorrt' is needed")):
        load_tensorrt("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"libraries cannot be loaded: libnvinfer\.so\.10: no such file"):
        load_tensorrt("tensorrt")
