"""Memory traffic, kernels and communication of a compiled program, counted in XLA's text of it.

Counted are the operands and results of every instruction of the optimised, scheduled program that reads or writes main
memory, with the padding of their layout. An instruction that reads a part of an operand (a slice, a gather) counts that
part, and one that updates a part in place counts the update. What stays in on-chip memory (TPU's vector memory) costs
nothing; what a cache saves, and what a kernel reads more than once, are not seen.
"""

import math
import re
from collections import defaultdict
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
        return max(bodies, key=lambda traffic: traffic.bytes_moved, default=self.whole())

    def whole(self) -> Traffic:
        """Return the traffic of the whole program; a loop counts once."""
        return self._traffic(self._entry)

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
        reduced = 0
        if opcode in ("all-reduce", "all-reduce-start"):
            reduced = sum(array.unpadded_bytes for operand in operands for array in operand.arrays)
        return Traffic(read + written, 1, reduced)

    def _moved(self, instruction: _Instruction, operands: list[_Instruction]) -> tuple[int, int]:
        """Return the bytes read and written by an instruction that calls no other computation but a fused one."""
        sizes = [self._size(operand.arrays) for operand in operands]
        result = instruction.arrays
        if instruction.opcode in ("copy-start", "slice-start", "dynamic-slice-start"):
            # a tuple of source, copy and context; a slice arrives as large as it leaves
            source, copy = result[:2]
            if instruction.opcode == "copy-start":
                return self._size(result[:1]), self._size(result[1:2])
            return (copy.bytes if source.memory in self._memories else 0), self._size((copy,))
        if instruction.opcode in _SLICES:
            sizes[0] = self._size(result)
        elif instruction.opcode == "dynamic-update-slice":
            return sizes[1], sizes[1]
        elif instruction.opcode == "custom-call" and len(result) > 1 and result[-1].kind == "u8":
            result = result[:-1]  # a library's scratch space, which nobody reads afterwards
        written = self._size(result)
        if instruction.opcode == "fusion":
            fused_computation = self._computations[instruction.called("calls")[0]]
            return self._fused(fused_computation, sizes, written)
        return sum(sizes), written

    def _fused(self, fused: Computation, sizes: list[int], written: int) -> tuple[int, int]:
        """Return what a fusion reads and writes, given the sizes of its operands and of its result."""
        users: dict[str, list[_Instruction]] = defaultdict(list)
        for instruction in fused.values():
            for operand in instruction.operands:
                users[operand].append(instruction)

        def uses(name: str) -> Iterator[_Instruction]:
            for user in users[name]:
                if user.opcode == "bitcast":
                    yield from uses(user.name)
                else:
                    yield user

        def source(name: str) -> _Instruction:
            instruction = fused[name]
            return source(instruction.operands[0]) if instruction.opcode == "bitcast" else instruction

        root = next(instruction for instruction in fused.values() if instruction.is_root)
        roots = [source(name) for name in root.operands] if root.opcode == "tuple" else [source(root.name)]
        updates = [each for each in roots if each.opcode == "dynamic-update-slice"]
        in_place = {source(update.operands[0]).name for update in updates}
        for update in updates:
            written += _plain_size(fused[update.operands[1]]) - _plain_size(update)
        read = 0
        for instruction in fused.values():
            if instruction.opcode != "parameter":
                continue
            number = int(re.match(r"\d+", instruction.attributes)[0])  # type: ignore[index]
            size = sizes[number] if number < len(sizes) else 0
            if instruction.name in in_place:
                size = 0
            elif (parts := list(uses(instruction.name))) and all(
                user.opcode in _SLICES and source(user.operands[0]).name == instruction.name for user in parts
            ):
                size = min(size, sum(_plain_size(user) for user in parts))
            read += size
        return read, max(written, 0)

    def _size(self, arrays: tuple[_Array, ...]) -> int:
        return sum(array.bytes for array in arrays if array.memory in self._memories)


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
        operands + attributes if opcode == "parameter" else attributes,
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
