"""Counts the bytes that an instruction of a compiled program moves between a chip and its HBM."""

from .hlo import Instruction, Program, size, size_in_hbm

SLICES = ("slice", "dynamic-slice")
UPDATE = "dynamic-update-slice"


def traffic(each: Instruction, program: Program) -> int:
    """Returns the bytes of all operands and results of an instruction that are in HBM.

    Of an operand that is only sliced, the slices count. An update in place counts the update.
    """
    if 'custom_call_target="AllocateBuffer"' in each.rest:
        return 0
    operands = [program.instructions[name] for name in each.operands]
    body = program.computations.get(each.called)
    if body is None:
        body, inputs = [*operands, each], operands
    else:
        inputs = _parameters(body)
    reads = sum(
        _read(value, body, program)
        for value, operand in zip(inputs, operands, strict=True)
        if size_in_hbm(operand.shape)
    )
    root = body[-1]
    results = [program.instructions[name] for name in root.operands]
    if root.kind != "tuple":
        results = [root]
    return reads + sum(_written(result, program) for result in results)


def _parameters(body: list[Instruction]) -> list[Instruction]:
    found = [each for each in body if each.kind == "parameter"]
    return sorted(found, key=lambda each: int(each.arguments))


def _read(value: Instruction, body: list[Instruction], program: Program) -> int:
    total = 0
    for user in body:
        if value.name not in user.operands:
            continue
        place = user.operands.index(value.name)
        inner = program.computations.get(user.called)
        if user.kind in SLICES:
            total += size(user.shape)
        elif user.kind == "bitcast":
            total += _read(user, body, program)
        elif inner is not None:
            total += _read(_parameters(inner)[place], inner, program)
        elif user.kind != UPDATE or place > 0:
            return size(value.shape)
    return min(size(value.shape), total)


def _written(result: Instruction, program: Program) -> int:
    if not size_in_hbm(result.shape):
        return 0
    while result.kind == "bitcast" or result.called in program.computations:
        inner = program.computations.get(result.called)
        result = inner[-1] if inner else program.instructions[result.operands[0]]
    if result.kind == UPDATE:
        result = program.instructions[result.operands[1]]
    return size(result.shape)
