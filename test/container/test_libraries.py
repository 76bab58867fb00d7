"""Shared libraries that the image left out: nothing that a run calls asks for one.

Without a GPU: the loader's own answer for each library that is there, and cuDNN's for each function
that ONNX Runtime calls. Neither needs a device to say which file it misses.
"""

from __future__ import annotations

import json
import re

import docker_engine
import pytest

from oarseg import __version__
from oarseg.model.network import RULES

# What the driver brings, and what CuPy and ONNX Runtime can do without; none was ever installed.
DRIVER = {"libcuda.so.1"}
OPTIONAL = {
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcutensor.so.2",
    "libcutensorMg.so.2",
    "libnccl.so.2",
    "libnvinfer.so.10",
    "libnvonnxparser.so.10",
}
# By what it would be opened with; docker/prune.py removes them.
LEFT_OUT = ("libcudnn_adv", "libnvJitLink")
# Each library of the packages, as the loader finds what it names. Lines: "<library> <missing>".
# What lies in another folder of the packages is no miss: that package loads it first.
LIST_MISSING = r"""
find /opt/venv -name '*.so*' -printf '%f there\n'
for file in $(find /opt/venv /opt/app -name '*.so*' -type f); do
    LD_TRACE_LOADED_OBJECTS=1 /lib64/ld-linux-x86-64.so.2 "$file" |
        sed -n "s|^\s*\(\S*\) => not found|$file \1|p"
done
"""
# Calls each function that ONNX Runtime imports, with nothing, in a process of its own. It returns
# an error, or crashes; what is said on stderr meanwhile tells of a library that is not there.
CALL_EACH = r"""
import ctypes, json, os, re, sys
from pathlib import Path
packages = Path(sys.prefix, "lib", "python3.11", "site-packages")
provider = (packages / "onnxruntime/capi/libonnxruntime_providers_cuda.so").read_bytes()
names = sorted({n.decode() for n in re.findall(rb"(?<=\0)cudnn[A-Z]\w+(?=\0)", provider)})
said = {}
for name in names:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        ctypes.CDLL("libcudnn.so.9")[name](*[None] * 20)
        os._exit(0)
    os.close(writer)
    with open(reader, errors="replace") as stream:
        said[name] = stream.read()
    os.waitpid(child, 0)
print(json.dumps(said))
"""
# Operators whose kernels call what was left out: recurrent networks and attention (libcudnn_adv),
# Fourier transforms (libnvJitLink, which libcufft opens for a plan).
NEED_MORE = {
    "Attention",
    "DFT",
    "GRU",
    "LSTM",
    "MultiHeadAttention",
    "RNN",
    "Rfft",
    "Irfft",
    "STFT",
}


def in_image(image: str, program: str, script: str) -> str:
    options = ("--rm", "--network", "none", "--entrypoint", program, image)
    return docker_engine.docker("run", *options, "-c", script)


def missing(image: str) -> dict[str, set[str]]:
    """What the loader does not find, and for which libraries."""
    found: dict[str, set[str]] = {}
    for line in in_image(image, "bash", LIST_MISSING).splitlines():
        asking, wanted = line.split()
        found.setdefault(wanted, set()).add(asking.rpartition("/")[2])
    there = found.pop("there")
    return {wanted: asking for wanted, asking in found.items() if wanted not in there}


def test_every_library_finds_those_that_it_names(image: str) -> None:
    found = missing(image)
    assert set(found) == DRIVER | OPTIONAL
    # A module of CuPy's that is not there is as if its library had not been installed.
    asking = set().union(*(found[name] for name in OPTIONAL))
    assert {re.sub(r"\.(cpython-|so).*", "", name) for name in asking} == {
        "_cusolver",
        "cusolver",
        "cusparse",
        "cutensor",
        "libonnxruntime_providers_tensorrt",
        "nccl",
    }


def test_what_is_opened_by_name_is_opened_by_one_library_alone(image: str) -> None:
    """Which are cuDNN's front, asked below, and cuFFT, of which no network has an operator."""
    script = "cd /opt/venv; grep -rlaE --include '*.so*' '{}' .".format("|".join(LEFT_OUT))
    named = {path.rpartition("/")[2] for path in in_image(image, "bash", script).split()}
    assert named == {"libcudnn.so.9", "libcufft.so.11"}


@pytest.mark.container
def test_without_cuda_every_library_finds_those_that_it_names() -> None:
    docker_engine.build("--cpu")
    assert missing(f"oarseg:{__version__}-cpu") == {}


def test_of_cudnn_only_recurrent_networks_miss_a_library(image: str) -> None:
    said = json.loads(in_image(image, "/opt/venv/bin/python", CALL_EACH))
    assert {"cudnnCreate", "cudnnConvolutionForward", "cudnnBackendExecute"} <= set(said)
    refused = {name for name, text in said.items() if "Cannot load symbol" in text}
    assert refused == {name for name in said if "RNN" in name}
    assert refused


def test_no_network_of_ours_has_an_operator_that_would_ask_for_more() -> None:
    """Every network is held to these operators before an engine opens it."""
    assert NEED_MORE.isdisjoint(RULES)
