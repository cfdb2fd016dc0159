"""Memory traffic, kernels and communication of a compiled program, counted in XLA's text of it.

Counted are the operands and results of every instruction of the optimised, scheduled program that reads or writes main
memory, with the padding of their layout. An instruction that reads a part of an operand (a slice, a gather) counts that
part, and one that updates a part in place counts the update. What stays in on-chip memory (TPU's vector memory) costs
nothing; what a cache saves, and what a kernel reads more than once, are not seen.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

# no work: names for what exists already, or the end of what was counted at its start
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"),
    *("partition-id", "replica-id"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}
_CALLS = {"call", "while", "conditional", "async-start"}

_BITS = {"pred": 8, "token": 0}


@dataclass(frozen=True)
class Traffic:
    """What one pass through a computation does on one device.

    Attributes:
      bytes_moved: read from and written to main memory.
      kernels: instructions that do any work; on a GPU each is one kernel, or one call of a library.
      all_reduced_bytes: summed over devices, without padding.
    """

    bytes_moved: int
    kernels: int
    all_reduced_bytes: int

    def __add__(self, other: "Traffic") -> "Traffic":
        """Return the sum."""
        return Traffic(
            self.bytes_moved + other.bytes_moved,
            self.kernels + other.kernels,
            self.all_reduced_bytes + other.all_reduced_bytes,
        )


NOTHING = Traffic(0, 0, 0)


@dataclass(frozen=True)
class _Array:
    """An array of a shape's text, such as ``bf16[16,8]{1,0:T(8,128)(2,1)S(1)}``."""

    kind: str
    dimensions: tuple[int, ...]
    layout: str

    @property
    def unpadded_bytes(self) -> int:
        return self._bytes(self.dimensions)

    def _bytes(self, dimensions: Iterable[int]) -> int:
        number = re.search(r"\d+", self.kind)
        bits = _BITS[self.kind] if self.kind in _BITS else int(number[0]) if number else 8
        return -(-bits * math.prod(dimensions) // 8)

    @property
    def bytes(self) -> int:
        """With the padding of a TPU's tiles: the most minor dimensions are multiples of the tile's."""
        order, _, rest = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        if not tile or not self.dimensions:
            return self.unpadded_bytes
        sides = [int(side) for side in tile[1].split(",")]
        # major to minor; a tile has no more sides than the array dimensions, except that a vector's may lack some
        physical = [self.dimensions[int(axis)] for axis in reversed(order.split(","))]
        for place, side in enumerate(reversed(sides[-len(physical) :]), start=1):
            physical[-place] = -(-physical[-place] // side) * side
        return self._bytes(physical)

    @property
    def memory(self) -> int:
        """The memory space; 0 is main memory."""
        space = re.search(r"S\((\d+)\)", self.layout)
        return int(space[1]) if space else 0


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[_Array, ...]:
        return tuple(_arrays(self.shape))

    def called(self, *keys: str) -> list[str]:
        """Return the computations that attributes such as ``calls=%name`` or ``branch_computations={...}`` name."""
        found = [re.search(rf"\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes) for key in keys]
        return [name for match in found if match for name in re.findall(r"%([\w.\-]+)", match[1])]


Computation = Mapping[str, _Instruction]


class Program:
    """A compiled program, read from its text."""

    def __init__(self, text: str, main_memories: frozenset[int] = frozenset({0})) -> None:
        """Read a program.

        Args:
          text: from ``jax.stages.Compiled.as_text``.
          main_memories: the memory spaces that are main memory: 0, and on a GPU also 1, which collectives use.
        """
        self._memories = main_memories
        self._computations: dict[str, dict[str, _Instruction]] = {}
        self._entry = ""
        current: dict[str, _Instruction] = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                current = self._computations.setdefault(header[2], {})
                self._entry = header[2] if header[1] else self._entry
            elif instruction := _read_instruction(line):
                current[instruction.name] = instruction
        if not self._entry:
            raise ValueError("The text of the compiled program has no entry computation: its format is not known.")

    def step(self) -> Traffic:
        """Return the traffic of one step: of the body of the loop that moves most, or of all if there is no loop."""
        bodies = [
            self._traffic(body)
            for instruction in self._computations[self._entry].values()
            if instruction.opcode == "while"
            for body in instruction.called("body")
        ]
        return max(bodies, key=lambda traffic: traffic.bytes_moved) if bodies else self.whole()

    def whole(self) -> Traffic:
        """Return the traffic of the whole program; a loop counts once."""
        return self._traffic(self._entry)

    def bytes_moved_by(self, name: str) -> int | None:
        """Return what one run of an instruction moves; None if the program lacks it.

        Args:
          name: without "%"; or that of its kernel on a GPU, in which "_" takes the place of every other sign.
        """
        for computation in self._computations.values():
            for instruction in computation.values():
                if name in (instruction.name, re.sub(r"\W", "_", instruction.name)):
                    return self._instruction(instruction, computation).bytes_moved
        return None

    def _traffic(self, name: str) -> Traffic:
        computation = self._computations[name]
        return sum((self._instruction(each, computation) for each in computation.values()), start=NOTHING)

    def _instruction(self, instruction: _Instruction, computation: Computation) -> Traffic:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return NOTHING
        if opcode in _CALLS:
            inner = [self._traffic(name) for name in instruction.called("to_apply", "body", "calls")]
            branches = [
                self._traffic(name)
                for name in instruction.called("branch_computations", "true_computation", "false_computation")
            ]
            return sum([*inner, *sorted(branches, key=lambda t: t.bytes_moved)[-1:]], start=NOTHING)
        operands = [computation[name] for name in instruction.operands if name in computation]
        read, written = self._moved(instruction, operands)
        return Traffic(read + written, 1, self._reduced(instruction, computation))

    def _reduced(self, instruction: _Instruction, computation: Computation) -> int:
        """Return the bytes that are summed over devices; scattering and gathering a sum are half of one each."""
        if instruction.opcode == "fusion":
            fused = self._fused_by(instruction)
            return sum(self._reduced(each, fused) for each in fused.values())
        operands = [computation[name] for name in instruction.operands if name in computation]
        summed = sum(array.unpadded_bytes for operand in operands for array in operand.arrays)
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-gather":
            return sum(array.unpadded_bytes for array in instruction.arrays[-1:]) // 2
        return {"all-reduce": summed, "reduce-scatter": summed // 2}.get(kind, 0)

    def _moved(self, instruction: _Instruction, operands: list[_Instruction]) -> tuple[int, int]:
        """Return the bytes read and written by an instruction that calls no other computation but a fused one."""
        sizes = [self._size(operand.arrays) for operand in operands]
        opcode, result = instruction.opcode, instruction.arrays
        if opcode == "fusion":
            return self._fused(instruction, sizes)
        if opcode == "copy-start":
            # a tuple of copy, source and context
            return self._size(result[1:2]), self._size(result[:1])
        if opcode in ("slice-start", "dynamic-slice-start"):
            # a tuple of source, slice and context
            return self._part(operands[0], result[1]), self._size(result[1:2])
        if opcode in _SLICES:
            return self._part(operands[0], *result) + sum(sizes[1:]), self._size(result)
        if opcode == "dynamic-update-slice":
            return sum(sizes[1:]), self._part(instruction, *operands[1].arrays)
        if opcode == "custom-call" and len(result) > 1 and result[-1].kind == "u8":
            result = result[:-1]  # a library's scratch space, which nobody reads afterwards
        return sum(sizes), self._size(result)

    def _fused(self, instruction: _Instruction, sizes: list[int]) -> tuple[int, int]:
        """Return what a fusion reads and writes, given the sizes of its operands."""
        fused = self._fused_by(instruction)
        read = sum(self._read(fused, number, size) for number, size in enumerate(sizes))
        root = next(each for each in fused.values() if each.is_root)
        roots = [_source(fused, name) for name in (root.operands if root.opcode == "tuple" else [root.name])]
        if len(roots) != len(instruction.arrays):  # an inner fusion has several results
            return read, self._size(instruction.arrays)
        written = 0
        for result, each in zip(instruction.arrays, roots, strict=True):
            whole = self._size((result,))
            part = _plain_size(fused[each.operands[1]]) if _is_in_place(fused, each) else whole
            written += min(whole, part)
        return read, written

    def _read(self, fused: Computation, number: int, size: int) -> int:
        """Return how much of an operand of a fusion is read, given its number and its size."""
        parameter = next(
            (each.name for each in fused.values() if each.opcode == "parameter" and each.attributes == f"{number}"), ""
        )
        root = next(each.name for each in fused.values() if each.is_root)
        if not parameter or _source(fused, root).name == parameter:
            return size if parameter else 0
        parts = 0
        for user in _users(fused, parameter):
            places = [place for place, name in enumerate(user.operands) if _source(fused, name).name == parameter]
            if user.opcode in _SLICES and places == [0]:
                parts += _plain_size(user)
            elif user.opcode == "fusion":
                parts += sum(self._read(self._fused_by(user), place, size) for place in places)
            elif not (places == [0] and _is_in_place(fused, user)):
                return size
        return min(size, parts)

    def _fused_by(self, instruction: _Instruction) -> Computation:
        return self._computations[instruction.called("calls")[0]]

    def _part(self, whole: _Instruction, *parts: _Array) -> int:
        """Return the bytes of parts of an array, 0 if that lies on the chip."""
        return sum(part.bytes for part in parts) if self._size(whole.arrays) else 0

    def _size(self, arrays: tuple[_Array, ...]) -> int:
        return sum(array.bytes for array in arrays if array.memory in self._memories)


def _source(computation: Computation, name: str) -> _Instruction:
    """Return the instruction that makes a value, under whatever shape it is seen."""
    instruction = computation[name]
    return _source(computation, instruction.operands[0]) if instruction.opcode == "bitcast" else instruction


def _users(computation: Computation, name: str) -> Iterator[_Instruction]:
    """Yield the instructions that use a value, under whatever shape."""
    for user in computation.values():
        if name in user.operands:
            if user.opcode == "bitcast":
                yield from _users(computation, user.name)
            else:
                yield user


def _is_in_place(fused: Computation, instruction: _Instruction) -> bool:
    """Say whether an instruction updates a part of an operand of the fusion."""
    return (
        instruction.opcode == "dynamic-update-slice" and _source(fused, instruction.operands[0]).opcode == "parameter"
    )


def _plain_size(instruction: _Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays)


def _read_instruction(line: str) -> _Instruction | None:
    start = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not start:
        return None
    rest = line[start.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = opening + _closing(rest[opening:])
    operands = rest[opening + 1 : closing]
    attributes = rest[closing + 1 :]
    opcode = rest[:opening]
    return _Instruction(
        start[2],
        shape,
        opcode,
        tuple(re.findall(r"%([\w.\-]+)", operands)),
        # the number of a parameter stands where operands do
        operands if opcode == "parameter" else attributes,
        bool(start[1]),
    )


def _closing(text: str) -> int:
    """Return the place of the parenthesis that closes the first one of a text."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"A parenthesis is not closed in the compiled program: {text[:80]}")


def _arrays(shape: str) -> Iterator[_Array]:
    for kind, sides, layout in re.findall(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?", shape):
        yield _Array(kind, tuple(int(side) for side in sides.split(",") if side), layout)
