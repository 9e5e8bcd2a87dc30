"""Interpreter of pickle opcodes that imports and calls nothing (see `hvf.pickles.loading`)."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvf.pickles.arrays import Keys, Refused, Span, array, broken, check_shape, foreign, object_array, tensor

MAX_DEPTH = 64  # levels of dict, list, tuple and object array within each other
_SMALL = 2**16  # bytes; longer payloads stay in the file until it is known what they become

_NAMES = {  # what a pickle may name; none of these is ever called
    **{f"numpy.{core}.multiarray _reconstruct": "array" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "frombuffer" for core in ("core", "_core")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",  # how protocols 0-2 write bytes
    "__builtin__ bytes": "bytes",
    "builtins bytes": "bytes",
    "collections OrderedDict": "dict",
    "torch._utils _rebuild_tensor_v2": "tensor",
    "torch._utils _rebuild_parameter": "parameter",
}
_STORAGES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8", "Int": "i4", "Short": "i2",
    "Char": "i1", "Byte": "u1", "Bool": "b1", "ComplexFloat": "c8", "ComplexDouble": "c16",
}  # fmt: skip
_NAMES |= {f"torch {name}Storage": f"storage {dtype}" for name, dtype in _STORAGES.items()}

_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXTS = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}
_PAYLOADS = {b"C": "<B", b"B": "<I", b"\x8e": "<Q", b"\x96": "<Q"}
_PUTS = {b"q": "<B", b"r": "<I"}
_GETS = {b"h": "<B", b"j": "<I"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names: a key of the machine's `_call`."""

    name: str


@dataclass(eq=False)
class _Dtype:
    value: np.dtype


@dataclass(eq=False)
class _Array:
    """An array whose content comes later: flat values or, for dtype object, a list."""

    shape: tuple[int, ...] = ()
    values: Any = None


@dataclass(eq=False)
class _Storage:
    values: np.ndarray


class _Ordered(dict):
    """An OrderedDict; attributes given to it are dropped."""


class Machine:
    """Interprets the pickle in `span`; `member` finds the parts of the archive around it, `order` is its byte order."""

    def __init__(self, span: Span, member: Callable[[str], Span] | None = None, order: str = "<") -> None:
        self.span, self.member, self.order = span, member, order
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.storages: dict[str, _Storage] = {}
        self.keys = Keys()
        self.done: dict[int, tuple[Any, int, int, Any]] = {}

    def run(self) -> Any:
        """The object in the pickle. Raises Refused."""
        self._return()
        try:
            while (op := self._take(1)) != b".":
                self._step(op)
            result = self._pop()
        except (IndexError, struct.error, UnicodeError):
            raise broken(f"it is no pickle (byte {self.at})") from None
        if self.at != self.span.length:
            raise broken(f"more data after the end of the pickle (byte {self.at})")
        self.memo.clear()
        self.keys.hashes.clear()
        return self._finish(result, 0)[0]

    def _return(self) -> None:
        """Back from where a payload lies."""
        self.span.file.seek(self.span.begin + self.at)

    def _take(self, n: int) -> bytes:
        data = self.span.file.read(n) if n <= self.span.length - self.at else b""
        if len(data) != n:
            raise broken(f"it ends early, or never was a pickle (byte {self.at})")
        self.at += n
        return data

    def _unpack(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        line = self.span.file.readline(self.span.length - self.at)
        self.at += len(line)
        self.span.budget.spend(len(line))
        if not line.endswith(b"\n"):
            raise broken(f"it ends early, or never was a pickle (byte {self.at})")
        return line[:-1]

    def _push(self, x: Any, cost: int = 0) -> None:
        self.span.budget.spend(cost + 8)
        self.stack.append(x)

    def _pop(self, n: int | None = None) -> Any:
        """The topmost object, or the list of the topmost `n`, of those above the last mark."""
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - floor < (1 if n is None else n):
            raise IndexError
        if n is None:
            return self.stack.pop()
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return items

    def _pop_mark(self) -> list[Any]:
        items = self.stack[self.marks[-1] :]
        del self.stack[self.marks.pop() :]
        return items

    def _step(self, op: bytes) -> None:
        if op in _CONSTANTS:
            self._push(_CONSTANTS[op])
        elif op in _NUMBERS:
            self._push(self._unpack(_NUMBERS[op]), 32)
        elif op in _TEXTS:
            n = self._unpack(_TEXTS[op])
            self.span.budget.spend(n)
            self._push(self._take(n).decode("utf-8", "surrogatepass"), 64)
        elif op in _PAYLOADS:
            self._payload(self._unpack(_PAYLOADS[op]))
        elif op == b"\x94":
            self._put(len(self.memo))
        elif op in _PUTS:
            self._put(self._unpack(_PUTS[op]))
        elif op in _GETS:
            self._push(self.memo[self._unpack(_GETS[op])])
        elif op in _TUPLES:
            self._push(tuple(self._pop(_TUPLES[op])), 48 + 8 * _TUPLES[op])
        elif op == b"(":
            self.span.budget.spend(32)
            self.marks.append(len(self.stack))
        elif op in (b"t", b"l", b")", b"]"):
            items = self._pop_mark() if op in b"tl" else []
            self._push(tuple(items) if op in b"t)" else items, 56 + 8 * len(items))
        elif op in (b"d", b"}"):
            items = self._pop_mark() if op == b"d" else []
            self._push({}, 64)
            self._set(items)
        elif op in (b"a", b"e"):
            items = self._pop_mark() if op == b"e" else [self._pop()]
            self.span.budget.spend(8 * len(items))
            if not self.stack or type(self.stack[-1]) is not list:
                raise IndexError
            self.stack[-1].extend(items)
        elif op in (b"s", b"u"):
            self._set(self._pop_mark() if op == b"u" else self._pop(2))
        elif op in (b"c", b"\x93"):
            words = [self._line().decode(), self._line().decode()] if op == b"c" else self._pop(2)
            self._name(*words)
        elif op == b"R":
            call, args = self._pop(2)
            if type(call) is not _Name or type(args) is not tuple:
                raise foreign("calls what is no known way to make an array")
            self._push(self._call(call.name, args), 64)
            self._return()
        elif op == b"b":
            state = self._pop()
            self._build(self.stack[-1], state)
            self._return()
        elif op == b"Q":
            self._push(self._storage(self._pop()), 64)
            self._return()
        elif op in (b"g", b"p"):
            index = self._integer(self._line())
            self._put(index) if op == b"p" else self._push(self.memo[max(index, 0)])
        elif op in (b"I", b"L", b"F", b"V"):
            self._text(op, self._line())
        elif op in (b"\x8a", b"\x8b"):
            n = self._unpack("<B" if op == b"\x8a" else "<i")
            if not 0 <= n <= 9:
                raise foreign(f"holds a whole number of {n} bytes, more than any count or code has")
            self._push(int.from_bytes(self._take(n), "little", signed=True), 32)
        elif op in (b"0", b"1"):
            self._pop() if op == b"0" else self._pop_mark()
        elif op == b"2":
            self._push(self.stack[-1])
        elif op == b"\x80":
            if self._take(1) > b"\x05":
                raise broken("it is no pickle of a known protocol")
        elif op == b"\x95":
            if self._unpack("<Q") > self.span.length - self.at:
                raise broken("it ends early (truncated?)")
        else:
            raise foreign(f"is no pickle, or one with a class in it or from Python 2 (byte {self.at - 1}: {op!r})")

    def _payload(self, n: int) -> None:
        if n <= _SMALL:
            self._push(self._take(n), 40 + n)
            return
        self._push(self.span.part(self.at, n), 100)
        self.at += n
        self.span.file.seek(n, os.SEEK_CUR)

    def _put(self, index: int) -> None:
        self.span.budget.spend(8)
        if not 0 <= index <= len(self.memo):  # every pickler counts up
            raise broken(f"it stores its object number {len(self.memo)} as number {index}")
        self.memo[index : index + 1] = [self.stack[-1]]

    @staticmethod
    def _integer(text: bytes) -> int:
        if not re.fullmatch(rb"-?\d{1,20}L?", text):
            raise IndexError
        return int(text.rstrip(b"L"))

    def _text(self, op: bytes, line: bytes) -> None:
        if op == b"V":
            self._push(line.decode("raw-unicode-escape"), 64)
        elif op == b"F":
            if not re.fullmatch(rb"[-+.0-9einfa]{1,40}", line):
                raise IndexError
            try:
                self._push(float(line), 32)
            except ValueError:
                raise IndexError from None
        elif op == b"I" and line in (b"00", b"01"):
            self._push(line == b"01")
        else:
            self._push(self._integer(line), 32)

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2 or not self.stack or type(self.stack[-1]) not in (dict, _Ordered):
            raise IndexError
        self.span.budget.spend(64 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                raise foreign("has a dict whose key is neither a string nor a number")
            self.keys.add(id(self.stack[-1]), key)
            self.stack[-1][key] = value

    def _name(self, module: Any, name: Any) -> None:
        full = f"{module} {name}" if type(module) is type(name) is str else "something"
        if full not in _NAMES:
            raise foreign(f"names {full[:80].replace(' ', '.')!r}, which is not data")
        self._push(_Name(_NAMES[full]), 64)

    def _call(self, name: str, args: tuple[Any, ...]) -> Any:
        """The result of the function `name` for the arguments that data files give it; others are refused."""
        match name, args:
            case "array", (_Name("ndarray"), (int(0),), bytes(b"b")):
                return _Array()
            case "dtype", (str(code), int(0 | 1), int(0 | 1)) if re.fullmatch(r"[biufcSUO][1-9]\d{0,6}", code):
                try:
                    return _Dtype(np.dtype(code))
                except TypeError:
                    raise foreign(f"holds an array of dtype {code!r}") from None
            case "frombuffer", (bytes() | Span() as data, _Dtype() as dtype, tuple(shape), str(order)):
                made = array(data, dtype.value, shape, self.span.budget)
                return made.reshape(shape, order="F" if order == "F" else "C")
            case "frombuffer", (bytes() | Span() as data, _Dtype() as dtype, tuple(shape), str("K"), tuple(axes)):
                made = array(data, dtype.value, shape, self.span.budget).reshape(shape)
                if not all(type(a) is int for a in axes) or sorted(axes) != list(range(len(shape))):
                    raise broken("an array's axes are in an impossible order")
                return made.transpose(axes)
            case "scalar", (_Dtype() as dtype, bytes() as data):
                return array(data, dtype.value, (1,), self.span.budget)[0]
            case "encode", (str(text), str("latin1" | "latin-1")):
                self.span.budget.spend(len(text))
                return text.encode("latin-1")
            case "bytes", ():
                return b""
            case "dict", ():
                return _Ordered()
            case "parameter", (np.ndarray() as whole, bool(), dict()):
                return whole
            case "tensor", (_Storage() as storage, int(first), tuple(shape), tuple(strides), bool(), dict()):
                return tensor(storage.values, first, shape, strides)
        raise foreign(f"makes a {name} in a way no data file does")

    def _build(self, made: Any, state: Any) -> None:
        match made, state:
            case _Dtype(), (int(3 | 4), str("<" | ">" | "|" | "=") as order, None, None, None, *_):
                made.value = made.value.newbyteorder(order)  # type: ignore[arg-type]
            case _Array(values=None), (int(1), tuple(shape), _Dtype() as dtype, int(0 | 1) as fortran, data):
                if dtype.value.hasobject and type(data) is list:
                    check_shape(shape, 1, len(data))
                    self.span.budget.spend(8 * len(data))
                    made.shape, made.values = shape, data
                elif isinstance(data, (bytes, Span)):
                    flat = array(data, dtype.value, shape, self.span.budget)
                    made.shape, made.values = shape, flat.reshape(shape, order="F" if fortran else "C")
                else:
                    raise broken("an array without its values")
            case _Ordered(), dict():
                pass
            case _:
                raise foreign("gives an object a state, which no data file does in this way")

    def _storage(self, key: Any) -> _Storage:
        match key:
            case (str("storage"), _Name(kind), str(name), str(), int(count)) if self.member and kind[:8] == "storage ":
                if name not in self.storages:
                    dtype = np.dtype(self.order + kind[8:].replace("bfloat16", "u2"))
                    part = self.member(f"data/{name}")
                    values = array(part, dtype, (count,), self.span.budget)
                    if kind.endswith("bfloat16"):  # the upper half of a float32
                        self.span.budget.spend(4 * count)
                        values = (values.astype(np.uint32) << 16).view(np.float32)
                    self.storages[name] = _Storage(values)
                return self.storages[name]
        raise foreign("refers to data outside of the file")

    def _finish(self, x: Any, depth: int) -> tuple[Any, int, int, Any]:
        """(x with nothing left to read, bytes when written out without sharing, levels, x itself to keep its id)."""
        if type(x) is str or type(x) is bytes:
            return x, 8 + len(x), 0, x
        if isinstance(x, np.ndarray):
            return x, 8 + x.nbytes, 0, x
        if x is None or type(x) in (int, float, bool) or isinstance(x, np.generic):
            return x, 8, 0, x
        if id(x) not in self.done:
            if depth >= MAX_DEPTH:
                raise Refused(f"nests its data more than {MAX_DEPTH} levels deep, or in itself; no data file does")
            self.done[id(x)] = self._made(x, depth)
        result = self.done[id(x)]
        if depth + result[2] > MAX_DEPTH:
            raise Refused(f"nests its data more than {MAX_DEPTH} levels deep, or in itself; no data file does")
        return result

    def _made(self, x: Any, depth: int) -> tuple[Any, int, int, Any]:
        if isinstance(x, Span):
            return x.read(), x.length, 0, x
        if isinstance(x, _Dtype):
            return x.value, 8, 0, x
        if isinstance(x, _Array) and isinstance(x.values, np.ndarray):
            return x.values, 8 + x.values.nbytes, 0, x
        if isinstance(x, _Array) and isinstance(x.values, list):
            items = x.values
        elif isinstance(x, (list, tuple)):
            items = x
        elif isinstance(x, dict):
            items = [*x, *x.values()]
        else:
            raise foreign("holds something else than data")
        self.span.budget.spend(256 + 16 * len(items))
        made: Any = []
        size, levels = 64, 0
        for item in items:
            part = self._finish(item, depth + 1)
            made.append(part[0])
            size, levels = size + part[1], max(levels, part[2])
        # Lists of lists of lists, each the same ten times over, are small until somebody writes them out.
        self.span.budget.check(size)
        if isinstance(x, dict):
            made = dict(zip(x, made[len(x) :], strict=True))
        elif isinstance(x, tuple):
            made = tuple(made)
        elif isinstance(x, _Array):
            made = object_array(x.shape, made)
        return made, size, levels + 1, x


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return len(key) <= 8 and all(type(part) is not tuple and _is_key(part) for part in key)
    return key is None or type(key) in (str, bytes, int, float, bool) or isinstance(key, np.generic)
