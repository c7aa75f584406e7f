"""A simulator of a GPU that runs what the compiler made: PTX, all threads of a launch in step.

The tests run the very code that is compiled for a GPU, primitives and inline PTX included; what
stands between it and a GPU is `ptxas` alone. Every instruction is done for all threads at once by
NumPy. Threads that part at a branch wait for each other as a GPU's do: whoever is at the least
address goes first; barriers and shuffles wait for all whom they name, and a launch that waits for
ever is an error.

The simulator is stricter than a GPU: an access outside an array, by a byte, is an error that names
the instruction; so is a vector that does not lie at a multiple of its size. Shared memory begins
as NaN, and copies to it arrive when they are waited for, not before. What it does not see: races
between warps that a barrier should part, the order of memory, and time. `ex2.approx` is rounded
correctly here, and within 2 units of the last place on a GPU.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WARP = 32
SPACE = 1 << 40  # addresses of an array; none lies in two
SHARED_BITS = 24  # of an address in shared memory; the block's number in its cluster stands above

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TYPES = {
    **{f"u{8 * n}": t for n, t in UNSIGNED.items()},
    **{f"b{8 * n}": t for n, t in UNSIGNED.items()},
    **{f"s{8 * n}": np.dtype(f"i{n}").type for n in UNSIGNED},
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "pred": np.bool_,
}


class Fault(AssertionError):
    """What a GPU would not forgive, or would forgive in silence."""


class Memory:
    """Arrays at addresses of their own. What is given is copied; `back` reads it again."""

    def __init__(self) -> None:
        self._arrays: list[tuple[int, np.ndarray, int]] = []

    def give(self, array: Any, shift: int = 0) -> int:
        """The address of a copy, `shift` bytes from a multiple of 256."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        room = np.full(shift + flat.size + 16, 0xFF, np.uint8)
        room[shift : shift + flat.size] = flat
        self._arrays.append((shift, room, flat.size))
        return len(self._arrays) * SPACE + shift

    def back(self, address: int, dtype: Any, shape: Any) -> np.ndarray:
        """What lies there now."""
        shift, room, size = self._arrays[address // SPACE - 1]
        return room[shift : shift + size].copy().view(dtype).reshape(shape)

    def at(self, addresses: np.ndarray, size: int, what: str) -> list[tuple[np.ndarray, Any, Any]]:
        """(which of the addresses, array, offsets) of accesses of so many bytes."""
        numbers = (addresses // np.uint64(SPACE)).astype(np.int64)
        found = []
        for number in np.unique(numbers):
            here = numbers == number
            if not 1 <= number <= len(self._arrays):
                raise Fault(f"no array at {int(addresses[here][0]):#x}: {what}")
            shift, room, length = self._arrays[number - 1]
            offsets = (addresses[here] % np.uint64(SPACE)).astype(np.int64)
            if (offsets % size).any():
                raise Fault(f"{size} bytes at an address that is no multiple: {what}")
            if (offsets < shift).any() or (offsets + size > shift + length).any():
                outside = (offsets < shift) | (offsets + size > shift + length)
                raise Fault(
                    f"{size} bytes at {int(offsets[outside][0]) - shift} of an array of {length} "
                    f"(number {number}): {what}"
                )
            found.append((here, room, offsets))
        return found


@dataclass
class Instruction:
    """One instruction, taken apart."""

    name: str
    parts: list[str]
    operands: list[Any]
    guard: tuple[str, bool] | None
    text: str


@dataclass
class Program:
    """A kernel's instructions, its parameters' types and its registers' types."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, tuple[int, str]] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)


def _operand(text: str) -> Any:
    text = text.strip()
    if text.startswith("{"):
        return [_operand(t) for t in text.strip("{} ").split(",")]
    if text.startswith("["):
        base, _, offset = text.strip("[] ").partition("+")
        return ("at", _operand(base), int(offset or 0))
    if re.fullmatch(r"0f[0-9A-Fa-f]{8}", text):
        return np.uint32(int(text[2:], 16)).view(np.float32)
    if re.fullmatch(r"0d[0-9A-Fa-f]{16}", text):
        return np.uint64(int(text[2:], 16)).view(np.float64)
    if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", text):
        return int(text, 0)
    return text


def parse(text: str) -> Program:
    """The one kernel of a PTX module."""
    program = Program()
    text = re.sub(r"//[^\n]*", "", text)
    entry = text[text.index(".entry") :]
    head, _, body = entry.partition("{")
    body = body[: body.rindex("}")]
    for place, (kind, name) in enumerate(re.findall(r"\.param \.(\w+) (\w+)", head)):
        program.parameters[name] = place, kind
    body = re.sub(r"([\w$]+):\s*\.branchtargets([^;]*);", _table(program), body)
    scopes: list[dict[str, str]] = []
    made = 0
    for statement in re.split(r";|(?<=:)\s*\n|(?<!\w)(?=\{\s*\.reg)|^\s*\}", body, flags=re.M):
        statement = statement.strip()
        while statement:
            if statement.startswith("{") and not statement.startswith("{%"):
                scopes.append({})
                statement = statement[1:].strip()
                continue
            if statement.startswith("}"):
                scopes.pop()
                statement = statement[1:].strip()
                continue
            label = re.match(r"([$\w]+):", statement)
            if label:
                program.labels[label[1]] = len(program.instructions)
                statement = statement[label.end() :].strip()
                continue
            break
        if not statement or statement.startswith(".pragma"):
            continue
        declared = re.match(r"\.reg \.(\w+)\s+(.*)", statement)
        if declared:
            kind, names = declared.groups()
            for name in names.split(","):
                many = re.match(r"\s*(%\w+)<(\d+)>", name)
                if many:
                    for k in range(int(many[2])):
                        program.registers[f"{many[1]}{k}"] = kind
                else:
                    made += 1
                    scopes[-1][name.strip()] = f"%local{made}"
                    program.registers[f"%local{made}"] = kind
            continue
        for scope in scopes:
            for name, local in scope.items():
                statement = re.sub(rf"(?<![\w%]){name}\b", local, statement)
        program.instructions.append(_instruction(statement))
    return program


def _table(program: Program) -> Any:
    def keep(found: Any) -> str:
        program.tables[found[1]] = [t.strip() for t in found[2].split(",")]
        return ""

    return keep


def _instruction(statement: str) -> Instruction:
    text = " ".join(statement.split())
    guard = None
    guarded = re.match(r"@(!?)(%\w+)\s+", text)
    rest = text
    if guarded:
        guard = guarded[2], guarded[1] == "!"
        rest = text[guarded.end() :]
    name, _, operands = rest.partition(" ")
    found = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", operands)
    parts = re.split(r"(?<!:)\.(?!:)", name)
    parsed = [_operand(o) for o in found]
    if name.startswith("setp") and len(found) == 4 and parts[2] in ("and", "or", "xor"):
        pass
    return Instruction(parts[0], parts[1:], parsed, guard, text)


@dataclass
class Launch:
    """One launch that is under way."""

    program: Program
    memory: Memory
    grid: int
    block: int
    cluster: int
    shared: int

    def __post_init__(self) -> None:
        n = self.grid * self.block
        self.n = n
        index = np.arange(n)
        self.block_of = index // self.block
        self.special = {
            "%tid.x": index % self.block,
            "%ntid.x": np.full(n, self.block),
            "%ctaid.x": self.block_of,
            "%nctaid.x": np.full(n, self.grid),
            "%laneid": index % WARP,
            "%cluster_ctarank": self.block_of % self.cluster,
            "%cluster_nctarank": np.full(n, self.cluster),
        }
        self.special = {k: v.astype(np.uint32) for k, v in self.special.items()}
        self.stride = -(-self.shared // 16) * 16 + 16
        self.shared_bytes = np.full(self.grid * self.stride, 0xFF, np.uint8)
        self.values: dict[str, np.ndarray] = {}
        self.pc = np.zeros(n, np.int64)
        self.gone = np.zeros(n, bool)
        self.waiting = np.zeros(n, np.int8)  # 1: the block's barrier, 2: the cluster's, 3: a warp
        self.pending: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.steps = 0
        self.loads: set[str] = set()

    # registers and operands

    def get(self, operand: Any, kind: str) -> np.ndarray:
        """An operand as numbers of a PTX type."""
        want = TYPES[kind]
        if isinstance(operand, str):
            if operand in self.special:
                value = self.special[operand]
            elif operand in self.program.registers:
                value = self.values.get(operand)
                if value is None:
                    value = np.zeros(self.n, TYPES[self.program.registers[operand]])
            elif operand.startswith("sparse_xent_shared"):
                value = np.zeros(self.n, np.uint64)
            elif operand == "WARP_SZ":
                value = np.full(self.n, WARP, np.uint32)
            else:
                raise Fault(f"what is {operand}?")
        elif isinstance(operand, int):
            bits = np.dtype(want).itemsize * 8
            if want == np.bool_:
                return np.full(self.n, bool(operand))
            if np.dtype(want).kind == "f":
                unsigned = UNSIGNED[bits // 8](operand & ((1 << bits) - 1))
                return np.full(self.n, unsigned.view(want))
            unsigned = UNSIGNED[bits // 8](operand & ((1 << bits) - 1))
            return np.full(self.n, unsigned.view(want))
        else:
            value = np.full(self.n, operand)
        if value.dtype == want:
            return value
        if value.dtype.itemsize == np.dtype(want).itemsize:
            return value.view(want)
        if value.dtype.itemsize > np.dtype(want).itemsize:  # the low bits
            low = value.view(UNSIGNED[value.dtype.itemsize]).astype(
                UNSIGNED[np.dtype(want).itemsize]
            )
            return low.view(want)
        raise Fault(f"{operand} of {value.dtype} is too narrow for {kind}")

    def put(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        """Write a register where the mask is true."""
        if register == "_":
            return
        kind = TYPES[self.program.registers[register]]
        value = np.asarray(value)
        if value.dtype != kind:
            size = np.dtype(kind).itemsize
            if kind is np.bool_ or value.dtype == np.bool_:
                value = value.astype(kind)
            elif value.dtype.itemsize == size:
                value = value.view(kind)
            else:  # a narrow result in a wide register, or the reverse: by its bits
                value = value.view(UNSIGNED[value.dtype.itemsize]).astype(UNSIGNED[size]).view(kind)
        if mask.all():
            self.values[register] = value if value.shape == (self.n,) else np.full(self.n, value)
            return
        old = self.values.get(register)
        if old is None:
            old = np.zeros(self.n, kind)
        self.values[register] = np.where(mask, value, old)

    # running

    def run(self, limit: int = 2_000_000) -> None:
        """Until all threads are gone."""
        instructions = self.program.instructions
        with np.errstate(all="ignore"):
            while True:
                able = ~self.gone & (self.waiting == 0)
                if not able.any():
                    if self.gone.all():
                        return
                    self._release()
                    continue
                pc = int(self.pc[able].min())
                mask = able & (self.pc == pc)
                while True:  # as long as nobody parts
                    self.steps += 1
                    if self.steps > limit:
                        raise Fault(f"{limit} instructions, and no end")
                    one = instructions[pc]
                    where = mask
                    if one.guard is not None:
                        value = self.get(one.guard[0], "pred")
                        where = mask & (~value if one.guard[1] else value)
                    jump = getattr(self, f"_{one.name.replace('::', '_')}")
                    try:
                        stays = jump(one, where, mask)
                    except Fault as fault:
                        raise Fault(f"{fault} in `{one.text}`") from None
                    if stays is not None:
                        break
                    pc += 1
                    self.pc[mask] = pc
                    others = able & ~mask
                    if others.any() and int(self.pc[others].min()) <= pc:
                        break

    def _release(self) -> None:
        """Let go whoever waited for all."""
        released = False
        alive = ~self.gone
        for kind, size in ((1, 1), (2, self.cluster)):
            group = self.block_of // size
            waits = self.waiting == kind
            if not waits.any():
                continue
            for g in np.unique(group[waits]):
                members = alive & (group == g)
                if (self.waiting[members] == kind).all():
                    if kind == 2 and self.gone[group == g].any():
                        raise Fault("a block has gone while its cluster waits for it")
                    places = np.unique(self.pc[members])
                    if kind == 1 and len(places) > 1:
                        raise Fault(f"one barrier in {len(places)} places")
                    self.waiting[members] = 0
                    released = True
        if not released:
            raise Fault("threads wait for each other for ever")

    def _bra(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> bool:
        self.pc[mask] += 1
        self.pc[where] = self.program.labels[one.operands[0]]
        return True

    def _ret(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> bool:
        self.gone |= where
        self.pc[mask] += 1
        return True

    _exit = _ret

    def _bar(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> bool:
        self.waiting[where] = 1
        self.pc[mask] += 1
        return True

    def _barrier(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> bool | None:
        if one.parts[0] != "cluster":
            return self._bar(one, where, mask)
        if one.parts[1] == "arrive":
            return None
        self.waiting[where] = 2
        self.pc[mask] += 1
        return True

    def _shfl(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> bool:
        to, value, by, clamp, members = one.operands
        if members != -1 or clamp != 31 or one.parts[1] != "bfly":
            raise Fault("a shuffle that is not of the whole warp")
        pc = int(self.pc[mask][0])
        here = where | ((self.waiting == 3) & (self.pc == pc) & ~self.gone)
        whole = np.repeat(here.reshape(-1, WARP).all(axis=1), WARP)
        if (where & self.gone).any() or self.gone.reshape(-1, WARP)[
            here.reshape(-1, WARP).any(axis=1)
        ].any():
            raise Fault("a shuffle with lanes that are gone")
        source = np.arange(self.n) ^ int(by)
        self.put(to, self.get(value, "b32")[source], whole)
        self.waiting[here & ~whole] = 3
        self.waiting[whole] = 0
        self.pc[whole] += 1
        return True

    # memory

    def _addresses(self, operand: Any, kind: str = "u64") -> np.ndarray:
        _, base, offset = operand
        if isinstance(base, str) and base in self.program.registers:
            kind = "u32" if self.program.registers[base] in ("b32", "u32", "s32") else "u64"
        return self.get(base, kind).astype(np.uint64) + np.uint64(offset % (1 << 64))

    def _places(self, one: Instruction, where: np.ndarray, size: int, operand: Any) -> Any:
        """[(threads, bytes, offsets)] of an access."""
        threads = np.flatnonzero(where)
        addresses = self._addresses(operand)[threads]
        if any(p.startswith("shared") for p in one.parts):
            rank = (addresses >> np.uint64(SHARED_BITS)).astype(np.int64)
            own = self.block_of[threads]
            of_cluster = any(p == "shared::cluster" for p in one.parts)
            number = own // self.cluster * self.cluster + rank if of_cluster else own
            offsets = (addresses & np.uint64((1 << SHARED_BITS) - 1)).astype(np.int64)
            if (offsets % size).any():
                raise Fault(f"{size} bytes of shared memory at no multiple")
            if (offsets + size > self.shared).any():
                raise Fault(
                    f"{size} bytes at {int(offsets.max())} of {self.shared} bytes of shared memory"
                )
            return [(threads, self.shared_bytes, offsets + number * self.stride)]
        return [
            (threads[here], room, offsets)
            for here, room, offsets in self.memory.at(addresses, size, one.text)
        ]

    @staticmethod
    def _kind(one: Instruction) -> tuple[str, int]:
        count = next((int(p[1:]) for p in one.parts if re.fullmatch(r"v[248]", p)), 1)
        return one.parts[-1], count

    def _ld(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind, count = self._kind(one)
        if "param" in one.parts:
            place, _ = self.program.parameters[one.operands[1][1]]
            self.put(
                one.operands[0], np.full(self.n, self.parameters[place]).view(TYPES[kind]), mask
            )
            return
        self.loads.add(".".join([one.name, *one.parts]))
        size = np.dtype(TYPES[kind]).itemsize
        to = one.operands[0] if isinstance(one.operands[0], list) else [one.operands[0]]
        results = [np.zeros(self.n, UNSIGNED[size]) for _ in to]
        if where.any():
            for threads, room, offsets in self._places(one, where, size * count, one.operands[1]):
                for k, result in enumerate(results):
                    result[threads] = _gather(room, offsets + k * size, size)
        for register, result in zip(to, results, strict=True):
            wide = TYPES[self.program.registers[register]]
            if np.dtype(wide).itemsize > size:
                result = result.view(TYPES[kind])
                result = result.astype(np.int64).astype(wide) if kind[0] == "s" else result
                result = result.astype(wide)
            self.put(register, result, where)

    def _st(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind, count = self._kind(one)
        size = np.dtype(TYPES[kind]).itemsize
        source = one.operands[1] if isinstance(one.operands[1], list) else [one.operands[1]]
        if not where.any():
            return
        for threads, room, offsets in self._places(one, where, size * count, one.operands[0]):
            for k, register in enumerate(source):
                value = self.get(register, kind)[threads].view(UNSIGNED[size])
                _scatter(room, offsets + k * size, value, size)

    def _cp(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        if "commit_group" in one.parts:
            self.pending.append(self.asked)
            self.asked = []
            return
        if "wait_group" in one.parts:
            # Groups are asked for by all threads in step: kernels copy in unison.
            left = int(one.operands[0])
            groups, self.pending = (
                self.pending[: len(self.pending) - left],
                self.pending[len(self.pending) - left :],
            )
            for group in groups:
                for to, offsets, data in group:
                    for k in range(16):
                        to[offsets + k] = data[:, k]
            return
        if not where.any():
            return
        shared = Instruction("st", ["shared", "b8"], [], None, one.text)
        plain = Instruction("ld", ["global", "b8"], [], None, one.text)
        ((threads, to, offsets),) = self._places(shared, where, 16, one.operands[0])
        data = np.zeros((self.n, 16), np.uint8)
        for some, room, places in self._places(plain, where, 16, one.operands[1]):
            for k in range(16):
                data[some, k] = room[places + k]
        self.asked.append((to, offsets, data[threads]))

    def _red(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        if one.parts[-2:] != ["min", "s64"]:
            raise Fault("an unknown atomic")
        if not where.any():
            return
        value = self.get(one.operands[1], "s64")
        for threads, room, offsets in self._places(one, where, 8, one.operands[0]):
            for thread, offset in zip(threads, offsets, strict=True):
                old = room[offset : offset + 8].view(np.int64)
                old[0] = min(old[0], value[thread])

    def _atom(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        if one.parts[-2:] != ["add", "u64"]:
            raise Fault("an unknown atomic")
        result = np.zeros(self.n, np.uint64)
        value = self.get(one.operands[2], "u64")
        if where.any():
            for threads, room, offsets in self._places(one, where, 8, one.operands[1]):
                for thread, offset in zip(threads, offsets, strict=True):
                    old = room[offset : offset + 8].view(np.uint64)
                    result[thread] = old[0]
                    old[0] += value[thread]
        self.put(one.operands[0], result, where)

    def _nothing(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        """Fences: memory here has one order."""

    _fence = _membar = _nothing

    def _mapa(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        to, address, rank = one.operands
        moved = self.get(address, "u32") | (self.get(rank, "u32") << np.uint32(SHARED_BITS))
        self.put(to, moved, where)

    def _cvta(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self.put(one.operands[0], self.get(one.operands[1], "u64"), where)

    # moves and conversions

    def _mov(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        to, source = one.operands
        kind = one.parts[-1]
        if isinstance(source, list):  # pack
            size = np.dtype(TYPES[kind]).itemsize // len(source)
            parts = [self.get(s, f"b{8 * size}").astype(np.uint64) for s in source]
            value = np.zeros(self.n, np.uint64)
            for k, part in enumerate(parts):
                value |= part << np.uint64(8 * size * k)
            self.put(to, value.astype(UNSIGNED[size * len(source)]), where)
        elif isinstance(to, list):  # unpack
            size = np.dtype(TYPES[kind]).itemsize // len(to)
            value = self.get(source, kind).view(UNSIGNED[size * len(to)])
            for k, register in enumerate(to):
                part = (value >> value.dtype.type(8 * size * k)).astype(UNSIGNED[size])
                self.put(register, part, where)
        else:
            self.put(to, self.get(source, kind), where)

    def _cvt(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        there, here = one.parts[-2:]
        if there in ("bf16x2", "f16x2"):
            to, high, low = one.operands
            halves = [_half(self.get(v, "f32"), there[:-2]) for v in (low, high)]
            value = halves[0].astype(np.uint32) | (halves[1].astype(np.uint32) << np.uint32(16))
            self.put(to, value, where)
            return
        value = self.get(one.operands[1], here)
        want = TYPES[there]
        if here[0] == "f" and there[0] in "su":
            if value.dtype == np.float16:
                value = value.astype(np.float32)
            rounding = next(p for p in one.parts if p in ("rni", "rzi", "rmi", "rpi"))
            how = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
            value = how(value.astype(np.float64))
            info = np.iinfo(want)
            inside = (value >= float(info.min)) & (value < float(info.max) + 1.0)
            made = np.where(inside, value, 0).astype(want)
            made = np.where(value >= float(info.max) + 1.0, info.max, made)
            made = np.where(value < float(info.min), info.min, made)
            self.put(one.operands[0], made.astype(want), where)
        elif here == there and any(p in ("rmi", "rni", "rzi", "rpi") for p in one.parts):
            rounding = next(p for p in one.parts if p in ("rni", "rzi", "rmi", "rpi"))
            how = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
            self.put(one.operands[0], how(value), where)
        elif here == "f64" and there == "f32" and "rz" in one.parts:
            made = value.astype(np.float32)
            above = np.abs(made.astype(np.float64)) > np.abs(value)
            made = np.where(above, np.nextafter(made, np.float32(0)), made)
            self.put(one.operands[0], made, where)
        else:
            made = value.astype(want)
            to = one.operands[0]
            wide = TYPES[self.program.registers[to]]
            if there[0] == "s" and np.dtype(wide).itemsize > np.dtype(want).itemsize:
                made = made.astype(np.int64).astype(wide)
            self.put(to, made, where)

    # arithmetic

    def _two(self, one: Instruction, where: np.ndarray, function: Any) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        self.put(one.operands[0], function(a, b).astype(TYPES[kind]), where)

    def _add(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._two(one, where, np.add)

    def _sub(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._two(one, where, np.subtract)

    def _product(self, one: Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        kind = one.parts[-1]
        if kind[0] == "f" or "lo" in one.parts:
            return a * b
        signed = kind[0] == "s"
        if "wide" in one.parts:
            size = 2 * np.dtype(TYPES[kind]).itemsize
            want = np.dtype(f"{'i' if signed else 'u'}{size}")
            return a.astype(want) * b.astype(want)
        bits = 8 * np.dtype(TYPES[kind]).itemsize
        high = [(int(x) * int(y)) >> bits for x, y in zip(a, b, strict=True)]
        return np.array([h & ((1 << bits) - 1) for h in high], f"u{bits // 8}").view(TYPES[kind])

    def _mul(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        self.put(one.operands[0], self._product(one, a, b), where)

    def _mad(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        product = self._product(one, a, b)
        bits = 8 * product.dtype.itemsize
        c = self.get(one.operands[3], f"{kind[0]}{bits}")
        self.put(one.operands[0], product + c, where)

    def _fma(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b, c = (self.get(o, kind) for o in one.operands[1:4])
        self.put(one.operands[0], _fused(a, b, c), where)

    def _div(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        if kind[0] == "f":
            self._two(one, where, np.divide)
            return
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        b = np.where(b == 0, np.ones_like(b), b)
        if kind[0] == "s":  # towards zero
            made = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
        else:
            made = a // b
        self.put(one.operands[0], made.astype(TYPES[kind]), where)

    def _rem(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        b = np.where(b == 0, np.ones_like(b), b)
        self.put(one.operands[0], np.fmod(a, b).astype(TYPES[kind]), where)

    def _rcp(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        value = self.get(one.operands[1], one.parts[-1])
        self.put(one.operands[0], value.dtype.type(1) / value, where)

    def _neg(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self.put(one.operands[0], -self.get(one.operands[1], one.parts[-1]), where)

    def _abs(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self.put(one.operands[0], np.abs(self.get(one.operands[1], one.parts[-1])), where)

    def _min(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._two(one, where, np.fmin if one.parts[-1][0] == "f" else np.minimum)

    def _max(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._two(one, where, np.fmax if one.parts[-1][0] == "f" else np.maximum)

    def _ex2(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        if one.parts != ["approx", "ftz", "f32"]:
            raise Fault("another ex2")
        value = self.get(one.operands[1], "f32").astype(np.float64)
        made = np.exp2(value).astype(np.float32)
        self.put(one.operands[0], np.where(np.abs(made) < 2.0**-126, np.float32(0), made), where)

    def _bits2(self, one: Instruction, where: np.ndarray, function: Any) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        self.put(one.operands[0], function(a, b), where)

    def _and(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._bits2(one, where, np.bitwise_and)

    def _or(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._bits2(one, where, np.bitwise_or)

    def _xor(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self._bits2(one, where, np.bitwise_xor)

    def _not(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        self.put(one.operands[0], ~self.get(one.operands[1], one.parts[-1]), where)

    def _shl(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        value = self.get(one.operands[1], one.parts[-1])
        by = self.get(one.operands[2], "u32")
        bits = 8 * value.dtype.itemsize
        made = value << np.minimum(by, bits - 1).astype(value.dtype)
        self.put(one.operands[0], np.where(by >= bits, value.dtype.type(0), made), where)

    def _shr(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        value = self.get(one.operands[1], one.parts[-1])
        by = self.get(one.operands[2], "u32")
        bits = 8 * value.dtype.itemsize
        made = value >> np.minimum(by, bits - 1).astype(value.dtype)
        if value.dtype.kind == "u":
            made = np.where(by >= bits, value.dtype.type(0), made)
        self.put(one.operands[0], made, where)

    def _bfi(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        start, length = one.operands[3:5]
        field_ = a.dtype.type((1 << length) - 1)
        kept = b & ~(field_ << a.dtype.type(start))
        self.put(one.operands[0], kept | ((a & field_) << a.dtype.type(start)), where)

    def _prmt(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        a, b, how = (self.get(o, "b32").astype(np.uint64) for o in one.operands[1:4])
        both = a | (b << np.uint64(32))
        made = np.zeros(self.n, np.uint32)
        for k in range(4):
            pick = (how >> np.uint64(4 * k)) & np.uint64(7)
            byte = (both >> (pick * np.uint64(8))) & np.uint64(0xFF)
            made |= byte.astype(np.uint32) << np.uint32(8 * k)
        self.put(one.operands[0], made, where)

    def _setp(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        made = _compared(one.parts[0], a, b)
        if one.parts[1] in ("and", "or", "xor"):
            other = self.get(one.operands[3].lstrip("!"), "pred")
            if one.operands[3].startswith("!"):
                other = ~other
            made = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[
                one.parts[1]
            ](made, other)
        self.put(one.operands[0], made, where)

    def _selp(self, one: Instruction, where: np.ndarray, mask: np.ndarray) -> None:
        kind = one.parts[-1]
        a, b = (self.get(o, kind) for o in one.operands[1:3])
        self.put(one.operands[0], np.where(self.get(one.operands[3], "pred"), a, b), where)


def _compared(how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    functions = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    integers = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
    how = integers.get(how, how)
    if a.dtype.kind != "f":
        return functions[how](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if how == "nan":
        return unordered
    if how == "num":
        return ~unordered
    if how.endswith("u"):
        return functions[how[:-1]](a, b) | unordered
    return functions[how](a, b) & ~unordered


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once: float32 by way of float64 to odd, float64 by long double."""
    if a.dtype == np.float32:
        product = a.astype(np.float64) * b.astype(np.float64)  # exact
        wide = c.astype(np.float64)
        total = product + wide
        # The error of the sum: where it is not 0, the last bit is set so that rounding sees it.
        part = total - product
        error = (product - (total - part)) + (wide - part)
        bits = total.view(np.int64)
        odd = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
        nearer = np.where((error > 0) == (total > 0), bits + 1, bits - 1)
        return np.where(odd, nearer, bits).view(np.float64).astype(np.float32)
    high = np.float64(134217729.0)
    product = a * b
    ah = a * high - (a * high - a)
    bh = b * high - (b * high - b)
    al, bl = a - ah, b - bh
    low = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    made = total + (error + low)
    return np.where(np.isfinite(made), made, total)


def _half(value: np.ndarray, kind: str) -> np.ndarray:
    """The bits of a half, rounded to nearest even."""
    if kind == "f16":
        return value.astype(np.float16).view(np.uint16)
    bits = value.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _gather(room: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    made = np.zeros(offsets.size, UNSIGNED[size])
    for k in range(size):
        made |= room[offsets + k].astype(UNSIGNED[size]) << UNSIGNED[size](8 * k)
    return made


def _scatter(room: np.ndarray, offsets: np.ndarray, value: np.ndarray, size: int) -> None:
    for k in range(size):
        room[offsets + k] = (value >> UNSIGNED[size](8 * k)).astype(np.uint8)


def launch(
    program: Program,
    memory: Memory,
    arguments: Any,
    *,
    grid: int,
    block: int,
    cluster: int = 1,
    shared: int = 0,
) -> Launch:
    """Run a kernel to its end; returns what is to be told of the run."""
    run = Launch(program, memory, grid, block, cluster, shared)
    run.parameters = [
        np.float64(a).view(np.uint64) if isinstance(a, float) else np.int64(a).view(np.uint64)
        for a in arguments
    ]
    run.run()
    return run
