"""What the image's build removes from the installed packages, and what it keeps."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "prune.py"
KEPT = (ROOT / "docker" / "itk.txt").read_text(encoding="ascii").split()


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_what_no_run_loads_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        KEPT[0],
        "itk_core-5.4.7.dist-info/METADATA",
        "nvidia/cublas/lib/libcublas.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9",
        "openvino/frontend/onnx/py_onnx_frontend.cpython-311-x86_64-linux-gnu.so",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_onnx_frontend.so.2641",
        "scipy/sparse/csgraph/x.so",
    ]
    removed = [
        "itk/_ITKLevelSetsPython.abi3.so",
        "itk/itkLevelSetPython.py",
        "itk_io.libs/libtbb-1.so",
        "nvidia/cublas/lib/libnvblas.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.alt.so.12.9",
        "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
        "nvidia/cudnn/lib/libcudnn_adv.so.9",
        "nvidia/cufft/lib/libcufftw.so.11",
        "nvidia/nvjitlink/lib/libnvJitLink.so.12",
        "nvidia_nvjitlink_cu12-12.9.86.dist-info/METADATA",
        "openvino/frontend/paddle/py_paddle_frontend.cpython-311-x86_64-linux-gnu.so",
        "openvino/libs/cache.json",
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
        "openvino_telemetry/main.py",
    ]
    put(tmp_path, *kept, *removed)
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, capture_output=True)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(kept)


def test_the_list_is_what_a_registration_loads() -> None:
    """In a process of its own: what other tests import is no part of it."""
    code = "import itk_parts; print(*itk_parts.loaded_files())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "bench",
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {_unversioned(name) for name in done.stdout.split()}
    assert loaded == {_unversioned(name) for name in KEPT}


def test_what_is_kept_is_enough(tmp_path: Path) -> None:
    """With an ITK of the kept files only, ahead of the whole one."""
    spec = importlib.util.find_spec("itk")
    assert spec is not None
    packages = Path(str(spec.origin)).parents[1]
    for name in KEPT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(packages / name)
    code = "import itk_parts, itk; itk_parts.register(); print(itk.__file__)"
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "bench"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_the_list_names_each_file_as_it_lies() -> None:
    assert [name for name in KEPT if ".." in name or not name.startswith("itk")] == []


def test_the_pinned_itk_is_the_one_that_was_listed() -> None:
    """Another version may load other files: `make requirements` writes both."""
    spec = importlib.util.find_spec("itk")
    assert spec is not None
    found = {
        path.name for path in Path(str(spec.origin)).parents[1].glob("itk_elastix-*.dist-info")
    }
    for name in ("requirements.txt", "requirements-cpu.txt"):
        (pinned,) = re.findall(r"(?m)^itk-elastix==(\S+)", (ROOT / name).read_text())
        assert found == {f"itk_elastix-{pinned}.dist-info"}


def _unversioned(name: str) -> str:
    """Without the hash and version that a bundled library's name ends with."""
    return re.sub(r"-[0-9a-f]{8}\.so[.0-9]*", ".so", name)
