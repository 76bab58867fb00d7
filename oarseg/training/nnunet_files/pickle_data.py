"""Read a pickle as data: nothing that it names is imported, called or built.

A checkpoint is a pickle, and a pickle is a program for a small stack machine. This reader runs
the operations that ``torch.save`` writes (protocol 2) on values of its own: a tensor becomes a
``TensorView``, a numpy scalar a Python number, a numpy array an ``Opaque`` that keeps nothing.
Which names a pickle may use is an exact list; the names themselves are never looked up.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# Storage class of torch → numpy's type of its elements. bfloat16 is read as whole words.
STORAGES: Final = {
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.DoubleStorage": "<f8",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
# numpy's name of a scalar's type → struct's.
SCALARS: Final = {
    "f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip
KEYS: Final = (str, bytes, int, float, type(None))
MOST_ARRAY_DIMENSIONS: Final = 8


class RefusedPickleError(Exception):
    """The pickle is damaged, or names what a checkpoint has no business to hold."""


@dataclass(frozen=True)
class GlobalName:
    """A name that a pickle refers to, as text."""

    text: str


@dataclass(frozen=True)
class Storage:
    """Where a tensor's elements lie: an entry of the archive and their type."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Opaque:
    """A value that is allowed and not needed; whatever it was built from is dropped."""


@dataclass
class ScalarType:
    """A numpy type of single numbers and its byte order."""

    code: str
    order: str = "<"


def read_pickle(data: bytes) -> Any:
    """Interpret a pickle of protocol 2.

    Returns:
        Dictionaries, lists, tuples, numbers and text, with ``TensorView`` for tensors.

    Raises:
        RefusedPickleError: a name or an operation that is not on the lists.
        Exception: whatever a damaged stream makes of the stack machine (``IndexError``,
            ``ValueError`` …).
    """
    machine = _Machine()
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "STOP":
            return machine.stack.pop()
        machine.run(operation.name, argument)
    raise RefusedPickleError("a stream that breaks off")


class _Machine:
    """The stack machine of a pickle, over inert values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        else:
            raise RefusedPickleError(f"the pickle operation {name}")

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def empty_list(self, _: Any) -> None:
        self.stack.append([])

    def tuple_of_mark(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def append(self, _: Any) -> None:
        self.extend_by([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self.extend_by(self.since_mark())

    def extend_by(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedPickleError("items appended to no list")
        self.stack[-1].extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update_by([key, value])

    def set_items(self, _: Any) -> None:
        self.update_by(self.since_mark())

    def update_by(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise RefusedPickleError("items set in no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Anything deeper could take for ever to hash.
            if not isinstance(key, KEYS):
                raise RefusedPickleError(f"a dictionary key of type {type(key).__name__}")
            self.stack[-1][key] = value

    def global_name(self, argument: str) -> None:
        name = argument.replace(" ", ".")
        if name not in _BUILDERS and name not in _MARKERS:
            raise RefusedPickleError(f"objects that are not allowed in a checkpoint: {name}")
        self.stack.append(GlobalName(name))

    def reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, GlobalName) or name.text not in _BUILDERS:
            raise RefusedPickleError("a call of what cannot be called")
        self.stack.append(_BUILDERS[name.text](*arguments))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ScalarType):
            target.order = {"<": "<", ">": ">", "|": "<", "=": "<"}[state[1]]
        elif type(target) not in (dict, Opaque):
            raise RefusedPickleError(f"a state given to a {type(target).__name__}")

    def storage(self, _: Any) -> None:
        kind, dtype, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(dtype, GlobalName) or dtype.text not in STORAGES:
            raise RefusedPickleError("a storage of no known type")
        self.stack.append(Storage(_text(key), STORAGES[dtype.text], _natural(count)))


def _tuple(size: int) -> Callable[[_Machine, Any], None]:
    def run(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < size:
            raise IndexError("stack")
        machine.stack[-size:] = [tuple(machine.stack[-size:])]

    return run


_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS: Final = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))
_OPERATIONS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda *_: None,
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_LIST": _Machine.empty_list,
    "TUPLE": _Machine.tuple_of_mark,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedPickleError(f"a {type(value).__name__} where text belongs")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise RefusedPickleError("a size or an offset that is no natural number")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MOST_ARRAY_DIMENSIONS:
        raise RefusedPickleError("a tensor of no plain shape")
    return tuple(_natural(value) for value in values)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorView:
    if not isinstance(storage, Storage):
        raise RefusedPickleError("a tensor without its storage")
    return TensorView(storage, _natural(offset), _sizes(shape), _sizes(strides))


def _parameter(tensor: Any, *_: Any) -> TensorView:
    if not isinstance(tensor, TensorView):
        raise RefusedPickleError("a parameter without its tensor")
    return tensor


def _scalar_type(code: Any, *_: Any) -> ScalarType:
    if code not in SCALARS:
        raise RefusedPickleError(f"the numpy type {str(code)[:20]!r}")
    return ScalarType(code)


def _scalar(dtype: Any, data: Any) -> float:
    if not isinstance(dtype, ScalarType) or not isinstance(data, bytes):
        raise RefusedPickleError("a numpy scalar that is no number")
    value: float = struct.unpack(dtype.order + SCALARS[dtype.code], data)[0]
    return value


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, which protocol 2 writes as text in Latin-1."""
    if encoding != "latin1":
        raise RefusedPickleError("bytes in another encoding than Latin-1")
    return _text(text).encode("latin1")


def _dropped(*_: Any) -> Opaque:
    return Opaque()


def _ordered() -> dict[Any, Any]:
    return {}


_BUILDERS: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.device": _dropped,
    "torch.Size": _sizes,
    # numpy 1 names the module without the underscore.
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _dropped,
    "numpy._core.multiarray._reconstruct": _dropped,
    "numpy.dtype": _scalar_type,
    "_codecs.encode": _encoded,
}
_MARKERS: Final = frozenset(
    (*STORAGES, "numpy.ndarray", *(f"torch.{name}" for name in ("float16", "float32", "bfloat16")))
)
