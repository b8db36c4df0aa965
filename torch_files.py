"""PyTorch's files of tensors, read without PyTorch and without running what they say.

A pickle is a program for a stack machine that may call any function by its name. This reader knows
the few instructions that a state dict needs, refuses every other before it reads on, compares names
to a list and never looks one up: there is no path from a file to a call.
"""

from __future__ import annotations

import io
import pickletools
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the format before torch 1.6
MAX_DIMENSIONS = 64  # NumPy's
# What zipfile raises at a damaged file, next to ValueError.
ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, OverflowError, EOFError, OSError, struct.error)


class Name(NamedTuple):
    """A name that a pickle mentions, and nothing that could be called."""

    text: str


class Storage(NamedTuple):
    """A block of memory that tensors are views of.

    Attributes:
      dtype: of its elements.
      key: by which the file finds it.
      size: in elements.
    """

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


DTYPES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
ORDERED_DICT = "collections.OrderedDict"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
NAMES = {ORDERED_DICT, TENSOR, PARAMETER, *DTYPES}

VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
OTHERS = {
    *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "EMPTY_LIST", "TUPLE", "SETITEM", "SETITEMS", "APPEND", "APPENDS"),
    *("GLOBAL", "BINPERSID", "REDUCE", "BUILD"),
}
OPCODES = {
    opcode.code.encode("latin-1"): opcode
    for opcode in pickletools.opcodes
    if opcode.name in VALUES | CONSTANTS.keys() | TUPLES.keys() | OTHERS
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote, in its format before or since torch 1.6.

    Args:
      path: of the file.
    Returns:
      Read-only arrays by their keys. Tensors that share a storage share memory, as in PyTorch.
    Raises:
      ValueError: the file is damaged, or holds anything but tensors of DTYPES, in one line.
    """
    data = Path(path).read_bytes()
    try:
        return _read_zip(data) if data[:4] == b"PK\3\4" else _read_legacy(data)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a PyTorch state dict: {error}") from error


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    """The format since torch 1.6: a pickle and a record a storage, uncompressed, in a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            # Neither compressed nor overlapping: a small file cannot ask for a large memory.
            stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            if not stored or sum(record.file_size for record in records) > len(data):
                raise ValueError("its records are not stored as they are")
            contents = {record.filename: archive.read(record) for record in records}
    except ZIP_ERRORS as error:
        raise ValueError(f"the zip file is damaged ({error!s:.80})") from error
    prefixes = [name.removesuffix("data.pkl") for name in contents if name.endswith("/data.pkl")]
    if len(prefixes) != 1:
        raise ValueError("it has no data.pkl, or several")
    (prefix,) = prefixes
    order = contents.get(f"{prefix}byteorder", b"little")
    if order not in (b"little", b"big"):
        raise ValueError("its byte order is neither little nor big")
    tensors = _state_dict(_unpickle(io.BytesIO(contents[f"{prefix}data.pkl"])))
    paths = {key: f"{prefix}data/{key}" for key in _storages(tensors)}
    buffers = {key: contents[path] for key, path in paths.items() if path in contents}
    return _arrays(tensors, buffers, order.decode())


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """The format before torch 1.6: five pickles, then each storage's size and bytes."""
    stream = io.BytesIO(data)
    for number in (MAGIC_NUMBER, PROTOCOL_VERSION):
        found = _unpickle(stream)
        if type(found) is not int or found != number:
            raise ValueError("it has neither format's magic number")
    _unpickle(stream)  # the sizes of C's types where it was written
    tensors = _state_dict(_unpickle(stream))
    storages = _storages(tensors)
    keys = _unpickle(stream)
    if type(keys) is not list:
        raise ValueError("its list of storages is missing")
    buffers = {}
    for key in keys:
        if type(key) is not str or key not in storages:
            raise ValueError("a storage belongs to no tensor")
        count = int.from_bytes(stream.read(8), "little")
        if count != storages[key].size:
            raise ValueError(f"storage {key!r:.80} has another size than its tensors say")
        buffers[key] = stream.read(count * storages[key].dtype.itemsize)
    return _arrays(tensors, buffers, "little")


def _state_dict(value: Any) -> dict[str, Tensor]:
    if type(value) is not dict:
        raise ValueError("it holds no dict")
    for key, tensor in value.items():
        if type(key) is not str or type(tensor) is not Tensor:
            raise ValueError(f"{key!r:.80} is a {type(tensor).__name__}, and only tensors are read")
    return value


def _storages(tensors: dict[str, Tensor]) -> dict[str, Storage]:
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {storage.key!r:.80} is two storages")
    return storages


def _arrays(
    tensors: dict[str, Tensor], buffers: dict[str, bytes], byte_order: str
) -> dict[str, np.ndarray]:
    """The tensors as views of their storages' bytes, each checked to lie within."""
    for key, storage in _storages(tensors).items():
        width = storage.dtype.itemsize
        if key not in buffers or len(buffers[key]) != storage.size * width:
            raise ValueError(f"storage {key!r:.80} is missing or cut off")
        if byte_order != sys.byteorder:
            buffers[key] = np.frombuffer(buffers[key], f"u{width}").byteswap().tobytes()
    return {name: _array(name, tensor, buffers) for name, tensor in tensors.items()}


def _array(name: str, tensor: Tensor, buffers: dict[str, bytes]) -> np.ndarray:
    storage, offset, shape, strides = tensor
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    empty = 0 in shape
    if not empty and last >= storage.size:
        raise ValueError(f"{name!r:.80} reaches beyond its storage")
    try:
        if empty:
            return np.empty(shape, storage.dtype)
        width = storage.dtype.itemsize
        # NumPy's constructor checks the bounds again, which as_strided would not.
        return np.ndarray(
            shape, storage.dtype, buffers[storage.key], offset * width, [s * width for s in strides]
        )
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{name!r:.80} has an impossible shape ({error})") from error


def _unpickle(stream: io.BytesIO) -> Any:
    """The value of the pickle that starts here; the stream is left behind its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    try:
        while True:
            code = stream.read(1)
            if code not in OPCODES:
                raise ValueError(f"its pickle is cut off, or has a foreign instruction ({code!r})")
            opcode = OPCODES[code]
            argument: Any = None
            if opcode.arg and opcode.name != "GLOBAL":  # whose reader would decode escapes
                argument = opcode.arg.reader(stream)
            match opcode.name:
                case "STOP":
                    return stack.pop()
                case "PROTO":
                    pass
                case name if name in VALUES:
                    stack.append(argument)
                case name if name in CONSTANTS:
                    stack.append(CONSTANTS[name])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(pop_to_mark()))
                case name if name in TUPLES:
                    items = [stack.pop() for _ in range(TUPLES[name])]
                    stack.append(tuple(reversed(items)))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _set_items(stack[-1], [key, value])
                case "SETITEMS":
                    items = pop_to_mark()
                    _set_items(stack[-1], items)
                case "APPEND":
                    item = stack.pop()
                    _append(stack[-1], [item])
                case "APPENDS":
                    items = pop_to_mark()
                    _append(stack[-1], items)
                case "GLOBAL":
                    stack.append(_name(stream.readline(), stream.readline()))
                case "BINPERSID":
                    stack.append(_storage(stack.pop()))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(_rebuild(stack.pop(), arguments))
                case "BUILD":
                    # A state dict's attribute `_metadata`: versions of layers, which no one needs.
                    if type(stack.pop()) is not dict or type(stack[-1]) is not dict:
                        raise ValueError("its pickle sets attributes of something not a dict")
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged") from error


def _set_items(target: Any, items: list[Any]) -> None:
    # No tuples as keys: the hash of one that nests itself would never end.
    if type(target) is not dict or len(items) % 2 or {type(k) for k in items[::2]} - {str, int}:
        raise ValueError("its pickle sets items of something not a dict, or of an unusual key")
    target.update(zip(items[::2], items[1::2]))


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("its pickle appends to something not a list")
    target.extend(items)


def _name(*lines: bytes) -> Name:
    """Of the two lines that hold a module and a name in it."""
    name = ".".join(line.removesuffix(b"\n").decode("latin-1") for line in lines)
    if name not in NAMES:
        raise ValueError(f"it mentions {name!r:.80}, which no state dict of plain tensors needs")
    return Name(name)


def _storage(persistent_id: Any) -> Storage:
    """Of ('storage', type, key, device, size), and before torch 1.6 a view, which is None."""
    match persistent_id:
        case ("storage", Name(text), str(key), str(), int(size)) | (
            "storage", Name(text), str(key), str(), int(size), None
        ) if text in DTYPES and size >= 0:  # fmt: skip
            return Storage(DTYPES[text], key, size)
    raise ValueError("a storage is of an unknown kind")


def _rebuild(function: Any, arguments: Any) -> Any:
    """What the three functions that a state dict calls would return."""
    match function, arguments:
        case Name(text), () if text == ORDERED_DICT:
            return {}
        case Name(text), (Tensor() as tensor, bool(), _) if text == PARAMETER:
            return tensor
        case Name(text), (
            Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), _, *metadata
        ) if text == TENSOR and metadata in ([], [None], [{}]):  # fmt: skip
            numbers = (offset, *shape, *strides)
            if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
                raise ValueError("a tensor's shape and strides do not match")
            if any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError("a tensor's shape or strides are no whole numbers")
            return Tensor(storage, offset, shape, strides)
    raise ValueError("its pickle calls something with unusual arguments")
