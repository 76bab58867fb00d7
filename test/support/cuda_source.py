"""Runs the text of CUDA kernels without a GPU: all threads at once, as NumPy arrays.

What is run is the very source that NVRTC gets, parsed as C, so that its indices, conversions and
roundings are tested. Besides the answer it checks what a GPU would not: that no active thread reads
or writes outside an array, and that no two threads write to one element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycparser import c_ast, c_parser

_TYPES: dict[str, type[np.generic]] = {
    "int": np.int32,
    "long long": np.int64,
    "float": np.float32,
    "double": np.float64,
    "unsigned short": np.uint16,
    "unsigned char": np.uint8,
}
_WIDE = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _narrow(value: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.asarray(value).astype(np.float16).view(np.uint16)


def _rounded(operation: Callable[[Any, Any], Any], kind: type[np.generic]) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        for value in values:
            assert np.asarray(value).dtype == kind, f"{kind.__name__} from {value}"
        with np.errstate(all="ignore"):
            return operation(*values)

    return run


_INTRINSICS: dict[str, Callable[..., Any]] = {
    "__fadd_rn": _rounded(np.add, np.float32),
    "__fmul_rn": _rounded(np.multiply, np.float32),
    "__fdiv_rn": _rounded(np.divide, np.float32),
    "__dadd_rn": _rounded(np.add, np.float64),
    "__dmul_rn": _rounded(np.multiply, np.float64),
    "fabsf": np.abs,
    "widen": lambda bits: _WIDE[bits],
    "narrow": _narrow,
    "narrow_double": _narrow,
}


class KernelFaultError(Exception):
    """A thread did what a GPU would not forgive."""


@dataclass(frozen=True)
class CudaFunction:
    """A kernel of a source text."""

    definition: Any

    def run(self, blocks: int, threads: int, arguments: Sequence[Any]) -> None:
        """Run all threads; arrays among the arguments are flat, and written to in place."""
        parameters = self.definition.decl.type.args.params
        assert len(parameters) == len(arguments), f"{len(parameters)} parameters"
        launch = _Launch(blocks, threads)
        for parameter, value in zip(parameters, arguments, strict=True):
            kept = launch.arrays if isinstance(value, np.ndarray) else launch.names
            kept[parameter.name] = _passed(parameter, value)
        launch.run(self.definition.body)


def parse_kernels(source: str) -> dict[str, CudaFunction]:
    """Parse the kernels of a text, by their names."""
    text = re.sub(r"//[^\n]*", "", source).replace('extern "C" __global__', "")
    tree = c_parser.CParser().parse(text)
    return {function.decl.name: CudaFunction(function) for function in tree.ext}


def _type(node: Any) -> type[np.generic]:
    return _TYPES[" ".join(node.type.type.names)]


def _passed(parameter: Any, value: Any) -> Any:
    """Check an argument's type against its parameter's, as a GPU would not."""
    pointer = isinstance(parameter.type, c_ast.PtrDecl)
    kind = np.dtype(_type(parameter.type) if pointer else _type(parameter))
    if pointer:
        assert isinstance(value, np.ndarray), f"{parameter.name}: expected an array"
        assert value.flags.c_contiguous, f"{parameter.name}: not contiguous"
        flat = value.reshape(-1)
        flat = flat.view(np.uint16) if flat.dtype == np.float16 else flat
        assert flat.dtype == kind, f"{parameter.name}: {flat.dtype} instead of {kind}"
        flat = flat.view()
        flat.flags.writeable = "const" not in parameter.type.type.quals
        return flat
    assert isinstance(value, np.generic), f"{parameter.name}: of no certain size"
    assert value.dtype == kind, f"{parameter.name}: {value.dtype} instead of {kind}"
    return value


class _Launch:
    """The state of all threads that have not returned: variables, and which are active."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.names: dict[str, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self._thread = np.arange(blocks * threads, dtype=np.int64)
        self._size = threads
        self._active: NDArray[np.bool_] = np.ones(len(self._thread), bool)

    def run(self, node: Any) -> None:
        getattr(self, f"_run_{type(node).__name__}")(node)

    def value(self, node: Any) -> Any:
        return getattr(self, f"_value_{type(node).__name__}")(node)

    def _run_Compound(self, node: Any) -> None:  # noqa: N802
        for item in node.block_items or ():
            self.run(item)

    def _run_Decl(self, node: Any) -> None:  # noqa: N802
        self.names[node.name] = np.asarray(self.value(node.init)).astype(_type(node))

    def _run_DeclList(self, node: Any) -> None:  # noqa: N802
        for item in node.decls:
            self.run(item)

    def _leave(self, leaving: NDArray[np.bool_]) -> None:
        """Some threads return: what is left of the variables is the others'."""
        assert self._active.all(), "a return in a branch"
        for name, value in self.names.items():
            if np.ndim(value):
                self.names[name] = value[~leaving]
        self._thread = self._thread[~leaving]
        self._active = np.ones(len(self._thread), bool)

    def _run_If(self, node: Any) -> None:  # noqa: N802
        assert node.iffalse is None
        holds = np.broadcast_to(self.value(node.cond), self._thread.shape).astype(bool)
        if isinstance(node.iftrue, c_ast.Return):
            self._leave(holds)
            return
        before = self._active
        self._active = before & holds
        if self._active.any():
            self.run(node.iftrue)
        self._active = before

    def _run_For(self, node: Any) -> None:  # noqa: N802
        self.run(node.init)
        while self._agreed(self.value(node.cond)):
            self.run(node.stmt)
            self.run(node.next)

    def _agreed(self, condition: Any) -> bool:
        holds = np.asarray(condition).astype(bool)
        assert holds.ndim == 0 or holds.all() or not holds.any(), "threads leave a loop apart"
        return bool(holds.all())

    def _run_UnaryOp(self, node: Any) -> None:  # noqa: N802
        assert node.op == "p++"
        self.names[node.expr.name] = self.names[node.expr.name] + np.int64(1)

    def _run_FuncCall(self, node: Any) -> None:  # noqa: N802
        """``atomicCAS(array, 0, value)``: all values of one launch are equal."""
        assert node.name.name == "atomicCAS"
        target, old, new = (self.value(part) for part in node.args.exprs)
        if self._active.any() and target[0] == old:
            target[0] = new

    def _run_Assignment(self, node: Any) -> None:  # noqa: N802
        assert node.op == "="
        new = np.asarray(self.value(node.rvalue))
        if isinstance(node.lvalue, c_ast.ID):
            old = self.names[node.lvalue.name]
            same = new.astype(old.dtype)
            self.names[node.lvalue.name] = np.where(self._active, same, old)
            return
        array = self.value(node.lvalue.name)
        index = np.broadcast_to(self.value(node.lvalue.subscript), self._thread.shape)
        chosen = index[self._active]
        self._check(node.lvalue.name.name, array, chosen)
        if len(np.unique(chosen)) < len(chosen):
            raise KernelFaultError(f"{node.lvalue.name.name}: two threads write to one element")
        array[chosen] = np.broadcast_to(new, self._thread.shape)[self._active].astype(array.dtype)

    def _check(self, name: str, array: Any, index: Any) -> None:
        if len(index) and not 0 <= index.min() <= index.max() < len(array):
            raise KernelFaultError(
                f"{name}: index {index.min()} to {index.max()} of {len(array)} elements"
            )

    def _value_ID(self, node: Any) -> Any:  # noqa: N802
        return self.arrays[node.name] if node.name in self.arrays else self.names[node.name]

    def _value_Constant(self, node: Any) -> Any:  # noqa: N802
        if node.type == "float" or node.value.endswith("f"):
            return np.float32(node.value.rstrip("f"))
        return np.float64(node.value) if node.type == "double" else np.int32(node.value)

    def _value_StructRef(self, node: Any) -> Any:  # noqa: N802
        text = f"{node.name.name}.{node.field.name}"
        return {
            "blockIdx.x": self._thread // self._size,
            "blockDim.x": np.int64(self._size),
            "threadIdx.x": self._thread % self._size,
        }[text]

    def _value_Cast(self, node: Any) -> Any:  # noqa: N802
        return np.asarray(self.value(node.expr)).astype(_type(node.to_type))

    def _value_FuncCall(self, node: Any) -> Any:  # noqa: N802
        return _INTRINSICS[node.name.name](*(self.value(part) for part in node.args.exprs))

    def _value_UnaryOp(self, node: Any) -> Any:  # noqa: N802
        assert node.op == "!"
        return ~np.asarray(self.value(node.expr)).astype(bool)

    def _value_BinaryOp(self, node: Any) -> Any:  # noqa: N802
        if node.op in ("&&", "||"):
            return self._logical(node)
        left, right = np.asarray(self.value(node.left)), np.asarray(self.value(node.right))
        if node.op in ("+", "-", "*"):
            # What is rounded is spelt as an intrinsic, which is never fused.
            assert left.dtype.kind == right.dtype.kind == "i", f"{node.op} of floats"
            return _ARITHMETIC[node.op](left, right)
        if node.op in ("/", "%"):
            active = np.broadcast_to(left, self._thread.shape)[self._active]
            assert not len(active) or active.min() >= 0, "a division that C rounds towards zero"
            return _ARITHMETIC[node.op](left, right)
        return _COMPARISONS[node.op](left, right)

    def _logical(self, node: Any) -> Any:
        """The right side is only looked at by the threads for which it counts."""
        left = np.broadcast_to(self.value(node.left), self._thread.shape).astype(bool)
        before = self._active
        self._active = before & (left if node.op == "&&" else ~left)
        right = np.asarray(self.value(node.right)).astype(bool)
        self._active = before
        return left & right if node.op == "&&" else left | right

    def _value_TernaryOp(self, node: Any) -> Any:  # noqa: N802
        condition = np.asarray(self.value(node.cond)).astype(bool)
        if condition.ndim == 0:
            return self.value(node.iftrue if condition else node.iffalse)
        before = self._active
        self._active = before & condition
        true = self.value(node.iftrue)
        self._active = before & ~condition
        false = self.value(node.iffalse)
        self._active = before
        return np.where(condition, true, false)

    def _value_ArrayRef(self, node: Any) -> Any:  # noqa: N802
        array = self.value(node.name)
        index = np.broadcast_to(self.value(node.subscript), self._thread.shape)
        self._check(node.name.name, array, index[self._active])
        return array[np.where(self._active, index, 0)]


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.floor_divide,
    "%": np.remainder,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
