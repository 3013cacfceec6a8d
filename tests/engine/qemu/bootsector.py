"""A system of 512 bytes: says things on the screen and the serial line, and tries devices by their ports.

It is put together here, instruction by instruction (Intel SDM 2), so that no assembler is needed.
"""

from __future__ import annotations

COM1, COM2, LPT1 = 0x3F8, 0x2F8, 0x378
_SIZE = 512
_PRINT = bytes.fromhex("AC 84C0 74 0D B40E BB0700 CD10 BAF803 EE EBEE C3".replace(" ", ""))
"""lodsb; test al,al; jz +13; mov ah,0Eh; mov bx,7; int 10h; mov dx,3F8h; out dx,al; jmp print; ret"""


class Sector:
    """Code as it grows from 7C00h on."""

    def __init__(self) -> None:
        # xor ax,ax; mov ds,ax; mov ss,ax; mov sp,7C00h; cld: after a jump over the routine that prints
        self._code = bytearray(b"\xeb" + bytes([len(_PRINT)]) + _PRINT)
        self._code += bytes.fromhex("31C0 8ED8 8ED0 BC007C FC".replace(" ", ""))

    def say(self, text: str) -> Sector:
        """Print a line on the screen and on COM1."""
        said = text.encode("ascii") + b"\r\n\0"
        self._code += b"\xe8" + len(said).to_bytes(2, "little") + said + b"\x5e"  # call over it; pop si
        self._code += b"\xe8" + ((2 - len(self._code) - 3) & 0xFFFF).to_bytes(2, "little")  # call print
        return self

    def out(self, port: int, *values: int) -> Sector:
        """Write bytes to a port."""
        self._code += b"\xba" + port.to_bytes(2, "little")
        for value in values:
            self._code += bytes([0xB0, value, 0xEE])  # mov al,value; out dx,al
        return self

    def configure_pci(self, slot: int, register: int, value: int, *, width: int) -> Sector:
        """Write 1 or 2 bytes to the configuration of a device on PCI bus 0 (PCI 2.2, 3.2.2.3.2)."""
        address = 0x80000000 | slot << 11 | register & 0xFC
        self._code += b"\x66\xb8" + address.to_bytes(4, "little") + b"\xba\xf8\x0c\x66\xef"  # mov eax; out dx,eax
        self._code += b"\xb8" + value.to_bytes(2, "little")  # mov ax,value
        self._code += b"\xba" + (0xCFC + (register & 3)).to_bytes(2, "little") + (b"\xee" if width == 1 else b"\xef")
        return self

    def print_parallel(self, text: str) -> Sector:
        """Send a text to LPT1, each byte with a strobe."""
        for byte in text.encode("ascii"):
            self.out(LPT1, byte).out(LPT1 + 2, 0x0D).out(LPT1 + 2, 0x0C)
        return self

    def when(self, port: int, value: int, text: str) -> Sector:
        """Say a text if a port reads as `value` within 65,536 tries."""
        self._code += b"\xb9\xff\xff\xba" + port.to_bytes(2, "little")  # mov cx,FFFFh; mov dx,port
        self._code += bytes([0xEC, 0x3C, value, 0x74, 0x04, 0xE2, 0xF9])  # in al,dx; cmp; je +4; loop -7
        past = Sector().say(text).length - Sector().length
        self._code += b"\xeb" + bytes([past + 2])[:1] + b"\x90\x90"  # jmp over
        return self.say(text)

    def until(self, port: int, value: int) -> Sector:
        """Wait until a port reads as `value`."""
        self._code += b"\xba" + port.to_bytes(2, "little") + bytes([0xEC, 0x3C, value, 0x75, 0xFB])
        return self

    @property
    def length(self) -> int:
        return len(self._code)

    def finish(self) -> bytes:
        """The sector: at the end it halts for good."""
        code = self._code + b"\xf4\xeb\xfd"  # hlt; jmp -3
        assert len(code) <= _SIZE - 2, "it is too long for a sector"
        return bytes(code.ljust(_SIZE - 2, b"\0") + b"\x55\xaa")


def sound_blaster() -> Sector:
    """Resets the DSP of a Sound Blaster at 220h, which then answers AAh."""
    sector = Sector().out(0x226, 1)
    for _ in range(8):
        sector.out(0x80, 0)  # each takes about a microsecond
    return sector.out(0x226, 0).when(0x22A, 0xAA, "sound blaster answers")
