"""Files that PyTorch wrote, read bit by bit; files that someone else wrote, refused."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

import torch_files
from torch_files import MAGIC_NUMBER, PROTOCOL_VERSION, read

torch = pytest.importorskip("torch")

FORMATS = {"zip": True, "legacy": False}


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def save(request, tmp_path):
    """save(state): the path of a file in either format."""

    def save(state):
        path = tmp_path / "weights.pth"
        torch.save(state, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


def assert_equal(arrays, state):
    assert list(arrays) == list(state)
    for key, tensor in state.items():
        theirs = tensor.detach().contiguous()
        if theirs.dtype == torch.bfloat16:
            assert arrays[key].dtype.name == "bfloat16"
            theirs = theirs.view(torch.int16)
        else:
            assert arrays[key].dtype == theirs.numpy().dtype, key
        assert arrays[key].shape == tensor.shape
        assert arrays[key].tobytes() == theirs.numpy().tobytes(), key


def test_a_network(save):
    """With layers' versions in `_metadata`, counters, and keys enough for the long opcodes."""
    layers = [torch.nn.Conv2d(2, 3, (3, 1)), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 5)]
    state = torch.nn.Sequential(*layers * 60).state_dict()
    assert state._metadata
    assert_equal(read(save(state)), state)


def test_views_and_shared_storages(save):
    base = torch.arange(60.0)
    state = {
        "all": base,
        "offset": base[7:],
        "strided": base[3:50:4],
        "transposed": base.reshape(3, 4, 5).permute(2, 0, 1),
        "expanded": base[5:8].reshape(3, 1).expand(3, 1000),
        "scalar": torch.tensor(3.5),
        "element": base[9],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[:6].reshape(2, 3)),
    }
    arrays = read(save(state))
    assert_equal(arrays, state)
    assert np.shares_memory(arrays["all"], arrays["offset"])
    assert not arrays["all"].flags.writeable


def test_dtypes(save):
    whole = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    state = {str(dtype): torch.tensor([0, 1, 100, 127], dtype=dtype) for dtype in whole}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        state[str(dtype)] = torch.tensor([0.1, -torch.inf, torch.nan, 1e-7], dtype=dtype)
    state["bool"] = torch.tensor([[True], [False]])
    assert len(state) == len(torch_files.DTYPES)
    assert_equal(read(save(state)), state)


def test_the_other_byte_order(tmp_path):
    """A zip file says its byte order; the legacy format is always little."""
    state = {"single": torch.arange(5.0), "short": torch.arange(6, dtype=torch.int16)}
    path, swapped = tmp_path / "weights.pth", tmp_path / "swapped.pth"
    torch.save(state, path)
    other = "big" if sys.byteorder == "little" else "little"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/byteorder"):
                content = other.encode()
            elif "/data/" in name:
                dtype = np.float32 if name.endswith("/0") else np.int16
                content = np.frombuffer(content, dtype).byteswap().tobytes()
            target.writestr(name, content)
    assert_equal(read(swapped), state)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(2)], "it holds no dict"),
        (torch.zeros(2), "it holds no dict"),
        ({"epoch": 3}, "'epoch' is a int, and only tensors are read"),
        ({"model": {"weight": torch.zeros(2)}}, "'model' is a dict"),
        ({3: torch.zeros(2)}, "3 is a Tensor"),
        ({(1, 2): torch.zeros(2)}, "unusual key"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "ComplexFloatStorage"),
        ({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, "_rebuild_tensor_v3"),
        ({"a": torch.zeros(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.device("cpu")}, "torch.device"),
        (torch.nn.Linear(2, 2), "it mentions|foreign instruction"),
    ],
)
def test_only_tensors(save, value, message):
    assert_refused(save(value), message)


# A pickle that does harm, if anything runs it, leaves this mark.
HARM: list[str] = []


def harm(*_):
    HARM.append("done")


class Harmful:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def assert_refused(path, message="cannot be read"):
    """In one line that names the file, and nothing was run."""
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read as a PyTorch state dict: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 250
    assert not HARM


def write_zip(path, pickled, **records):
    """A file of torch's zip format with this pickle, and storages by their key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in records.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def write_legacy(path, pickled):
    parts = [pickle.dumps(x, 2) for x in (MAGIC_NUMBER, PROTOCOL_VERSION, {})]
    path.write_bytes(b"".join([*parts, pickled, pickle.dumps([], 2)]))
    return path


def assert_both_refuse(tmp_path, pickled, message):
    for write in (write_zip, write_legacy):
        assert_refused(write(tmp_path / "weights.pth", pickled), message)


@pytest.mark.parametrize(
    "value",
    [
        Harmful(harm),
        Harmful(os.system, "exit 1"),
        Harmful(eval, "__import__('test_torch_files').harm()"),
        Harmful(getattr, "", "join"),
        {"weight": Harmful(harm)},
        collections.OrderedDict(weight=Harmful(harm)),
        {"weight": torch.nn.Linear},
    ],
)
def test_calls_are_refused(tmp_path, value):
    assert_both_refuse(tmp_path, pickle.dumps(value, 2), "it mentions")
    assert_both_refuse(tmp_path, pickle.dumps(value, 0), "foreign instruction|it mentions")
    assert_both_refuse(tmp_path, pickle.dumps(value, 4), "foreign instruction|it mentions")


US = __name__.encode()
ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"(i" + US + b"\nharm\n.", "foreign instruction"),  # INST
        (b"(c" + US + b"\nharm\no.", "it mentions"),  # OBJ
        (b"(" + ORDERED + b"o.", "foreign instruction"),  # OBJ of an allowed name
        (b"\x80\x02" + ORDERED + b")\x81.", "foreign instruction"),  # NEWOBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "foreign instruction"),  # STACK_GLOBAL
        (b"\x82\x01.", "foreign instruction"),  # EXT1
        (b"Pkey\n.", "foreign instruction"),  # PERSID
        (b"S'a'\n.", "foreign instruction"),
        (ORDERED + b"}b.", "not a dict"),  # BUILD on a name
        (b"K\x01}b.", "not a dict"),
        (b"}" + ORDERED + b"b.", "not a dict"),  # BUILD with something that is no state
        (ORDERED + b"K\x01\x85R.", "unusual arguments"),
        (ORDERED + b"}R.", "unusual arguments"),
        (REBUILD + b")R.", "unusual arguments"),
        (b"ctorch\nFloatStorage\n)R.", "unusual arguments"),
        (b"})R.", "unusual arguments"),
        (b"K\x01Q.", "unknown kind"),
        (ORDERED + b"Q.", "unknown kind"),
        (b"}}K\x01s.", "unusual key"),
        (b")K\x01K\x02s.", "not a dict"),
        (b"}K\x01a.", "not a list"),
        (b".", "damaged"),
        (b"h\x00.", "damaged"),
        (b"q\x00.", "damaged"),
        (b"u.", "damaged"),
        (b"\x85.", "damaged"),
        (b"", "cut off|holds no dict"),
        (b"X\xff\xff\xff\x7fabc", "cannot be read"),
        (b"\x8a\xff\x01", "cannot be read"),
        (b"cos\n", "cannot be read"),
        (b"}(K\x01K\x02K\x03u.", "unusual key"),
        (b"c" + b"x\\n" * 999 + b"\n\\n\n.", "it mentions"),
    ],
)
def test_tricks_are_refused(tmp_path, pickled, message):
    assert_both_refuse(tmp_path, pickled, message)


def test_a_key_that_nests_itself_ends(tmp_path):
    """Its hash, or its text, would take 2**200 steps."""
    bomb = b")q\x00" + b"h\x00\x86q\x00" * 200
    assert_both_refuse(tmp_path, b"}" + bomb + b"K\x01s.", "unusual key")
    assert_both_refuse(tmp_path, b"}X\x01\x00\x00\x00a" + bomb + b"s.", "'a' is a tuple")
    assert_both_refuse(tmp_path, bomb + b"Q.", "unknown kind")
    assert_both_refuse(tmp_path, REBUILD + bomb + b"R.", "unusual arguments")


def pickle_tensor(offset, shape, strides, size=6, storage_type="FloatStorage", metadata=()):
    """A state dict of one tensor on storage '0', as torch pickles it."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            if value == "STORAGE":
                return ("storage", getattr(torch, storage_type), "0", "cpu", size)
            return None

    arguments = ("STORAGE", offset, shape, strides, False, collections.OrderedDict(), *metadata)
    stream = io.BytesIO()
    value = {"a": Harmful(torch._utils._rebuild_tensor_v2, *arguments)}
    Pickler(stream, 2).dump(value)
    return stream.getvalue()


def test_a_tensor_by_hand(tmp_path):
    storage = np.arange(6, dtype=np.float32)
    path = tmp_path / "weights.pth"
    write_zip(path, pickle_tensor(1, (2, 2), (1, 3)), **{"0": storage.tobytes()})
    np.testing.assert_array_equal(read(path)["a"], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ((0, (7,), (1,)), "beyond its storage"),
        ((1, (2, 3), (3, 1)), "beyond its storage"),
        ((0, (2,), (6,)), "beyond its storage"),
        ((6, (), ()), "beyond its storage"),
        ((0, (2**62,), (1,)), "beyond its storage"),
        ((0, (2,), (2**63,)), "beyond its storage"),
        ((2**200, (1,), (1,)), "beyond its storage"),
        ((0, (2**62, 2**62), (0, 0)), "impossible shape"),
        ((0, (2**70,), (0,)), "impossible shape"),
        ((0, (0, 2**70), (1, 1)), "impossible shape"),
        ((0, (0, 2**62), (1, 1)), "impossible shape"),
        ((-1, (2,), (1,)), "no whole numbers"),
        ((5, (2,), (-1,)), "no whole numbers"),
        ((0, (-1,), (1,)), "no whole numbers"),
        ((0, (2.0,), (1,)), "no whole numbers"),
        ((0, (True,), (1,)), "no whole numbers"),
        ((0, (2, 2), (1,)), "do not match"),
        ((0, (1,) * 65, (1,) * 65), "do not match"),
        ((0, (2,), (1,), 7), "missing or cut off"),
        ((0, (2,), (1,), -6), "unknown kind"),
        ((0, (2,), (1,), 6, "DoubleStorage"), "missing or cut off"),
        ((0, (2,), (1,), 6, "FloatStorage", [{"neg": True}]), "unusual arguments"),
    ],
)
def test_views_stay_within_their_storage(tmp_path, tensor, message):
    path = tmp_path / "weights.pth"
    write_zip(path, pickle_tensor(*tensor), **{"0": bytes(24)})
    assert_refused(path, message)


def test_other_zip_files(tmp_path):
    path = tmp_path / "weights.pth"
    pickled = pickle_tensor(0, (2,), (1,))
    assert_refused(write_zip(path, pickled), "missing or cut off")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(24))
    assert_refused(path, "not stored as they are")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "")
    assert_refused(path, "it has no data.pkl, or several")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(24))
        archive.writestr("archive/byteorder", "middle")
    assert_refused(path, "neither little nor big")


def test_other_legacy_files(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"", b"\x80", b"hello", bytes(100), pickle.dumps({}, 2), pickle.dumps(3, 2)):
        path.write_bytes(content)
        assert_refused(path)
    start = b"".join(pickle.dumps(x, 2) for x in (MAGIC_NUMBER, PROTOCOL_VERSION, {}, {}))
    for end in (pickle.dumps({}, 2), pickle.dumps(["0"], 2), pickle.dumps([0], 2)):
        path.write_bytes(start + end + struct.pack("<q", 2**62))
        assert_refused(path)
    path.write_bytes(start + pickle.dumps([], 2))
    assert read(path) == {}


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "weights.pth")


@pytest.fixture
def valid(save):
    state = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2)).state_dict()
    path = save(state)
    return path, path.read_bytes()


def test_truncations(valid):
    path, content = valid
    for length in {*range(0, len(content), 7), *range(len(content) - 30, len(content))}:
        path.write_bytes(content[:length])
        assert_refused(path)


def test_flipped_bytes(valid):
    """Of what the reader may say, only tensors or one line."""
    path, content = valid
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            refused += 1
            assert all(isinstance(array, np.ndarray) for array in read(path).values())
            refused -= 1
    assert refused > 300
