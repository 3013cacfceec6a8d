"""Run a loop in a virtual CPU of KVM and print its exit reason and nanoseconds per turn (the kernel's KVM API).

A program of its own, started by `accelerator` in a child that the kernel ends if KVM hangs. The loop
runs in real mode: `mov ecx, turns; dec ecx; jnz; hlt`. Ends with exit code 2 and words when KVM
refuses; takes uid, gid and groups as arguments, to try it as a VM's process would.
"""

import array
import ctypes
import fcntl
import mmap
import os
import signal
import struct
import sys
import time

_BOUND = 3.0  # seconds
_TURNS = 20_000
_RUNS = 3  # the best counts: another program may have had the core
_MEMORY = 0x10000
_CODE_AT, _STACK_AT = 0x8000, 0x9000

_CREATE_VM, _VCPU_MMAP_SIZE = 0xAE01, 0xAE04
_CREATE_VCPU, _RUN = 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION, _SET_REGS = 0x4020AE46, 0x4090AE82
_GET_SREGS, _SET_SREGS = 0x8138AE83, 0x4138AE84
_EXIT_INTR = 10


def ns_per_turn(turns: int) -> tuple[int, float]:
    """KVM's exit reason and the time of one turn in ns. Raises OSError."""
    device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    memory = mmap.mmap(-1, _MEMORY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0, _MEMORY, address))
    code = b"\x66\xb9" + struct.pack("I", turns) + b"\x66\x49\x75\xfc\xf4"
    memory[_CODE_AT : _CODE_AT + len(code)] = code
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    run = mmap.mmap(processor, fcntl.ioctl(device, _VCPU_MMAP_SIZE, 0))
    _enter_real_mode(processor)
    reason = _EXIT_INTR
    began = time.perf_counter_ns()
    while reason == _EXIT_INTR:
        fcntl.ioctl(processor, _RUN, 0)
        reason = struct.unpack_from("I", run, 8)[0]
    return reason, (time.perf_counter_ns() - began) / turns


def _enter_real_mode(processor: int) -> None:
    special = bytearray(312)
    fcntl.ioctl(processor, _GET_SREGS, special)
    special[0:8] = bytes(8)  # cs.base
    special[12:14] = bytes(2)  # cs.selector
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    registers = array.array("Q", [0] * 18)
    registers[6], registers[16], registers[17] = _STACK_AT, _CODE_AT, 2  # rsp, rip, rflags
    fcntl.ioctl(processor, _SET_REGS, registers.tobytes())


def _become(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def main(arguments: list[int]) -> int:
    """Print `reason ns` and return 0; words and 2 when KVM refuses."""
    signal.setitimer(signal.ITIMER_REAL, _BOUND)  # SIGALRM's default action is the end
    try:
        if arguments:
            _become(arguments[0], arguments[1], arguments[2:])
        runs = [ns_per_turn(_TURNS) for _ in range(_RUNS)]
        print(max(reason for reason, _ in runs), min(time for _, time in runs))  # noqa: T201
    except OSError as error:
        print(error.errno, error.strerror, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
