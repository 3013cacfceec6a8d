"""The text on a VM's screen: a screenshot in the VGA's text mode, read by the font of its own BIOS."""

from __future__ import annotations

import functools
import pathlib
import struct
import zlib

_BIOS = pathlib.Path("/usr/share/seabios/vgabios-stdvga.bin")
_A = bytes.fromhex("0000 1038 6cc6 c6fe c6c6 c6c6 0000 0000".replace(" ", ""))  # the letter, in the 8x16 font
_HEIGHT = 16
Picture = list[list[bytes]]


def text(png: bytes) -> list[str]:
    """The lines on the screen, without blanks at their ends; a cell that shows no character is `?`."""
    width, height, rows = pixels(png)
    cell = 9 if width % 9 == 0 and width // 9 in (40, 80) else 8
    lines: list[str] = []
    for top in range(0, height - _HEIGHT + 1, _HEIGHT):
        characters = [_read(rows, top, left) for left in range(0, width - cell + 1, cell)]
        lines.append("".join(characters).rstrip())
    return lines


def pixels(png: bytes) -> tuple[int, int, Picture]:
    """Width, height and rows of a picture; a pixel is its colour."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, header = 8, b"", b""
    while at < len(png):
        (length,), kind = struct.unpack_from(">I", png, at), png[at + 4 : at + 8]
        content = png[at + 8 : at + 8 + length]
        header = content if kind == b"IHDR" else header
        packed += content if kind == b"IDAT" else b""
        at += length + 12
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    assert depth == 8
    channels = {0: 1, 2: 3, 6: 4}[colour]
    raw, stride = zlib.decompress(packed), width * channels
    rows, above = Picture(), bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        above = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), above, channels)
        rows.append([bytes(above[x : x + channels]) for x in range(0, stride, channels)])
    return width, height, rows


def _unfiltered(kind: int, row: bytearray, above: bytearray, step: int) -> bytearray:
    """A row without PNG's filter (PNG specification, 9.2)."""
    if kind == 0:
        return row
    for x in range(len(row)):
        left = row[x - step] if x >= step else 0
        corner = above[x - step] if x >= step else 0
        match kind:
            case 1:
                guess = left
            case 2:
                guess = above[x]
            case 3:
                guess = (left + above[x]) // 2
            case _:
                p = left + above[x] - corner
                guess = min((left, above[x], corner), key=lambda one: abs(p - one))
        row[x] = (row[x] + guess) & 0xFF
    return row


@functools.cache
def _font() -> dict[bytes, str]:
    """Each character of code page 437 by its sixteen rows."""
    bios = _BIOS.read_bytes()
    start = bios.index(_A) - ord("A") * _HEIGHT
    glyphs: dict[bytes, str] = {}
    for code in range(256):
        shape = bios[start + code * _HEIGHT : start + (code + 1) * _HEIGHT]
        character = chr(code) if 32 <= code < 127 else bytes([code]).decode("cp437")
        glyphs.setdefault(shape, character)
    glyphs[bytes(_HEIGHT)] = " "
    return glyphs


def _read(rows: Picture, top: int, left: int) -> str:
    """The character in a cell: what differs from the colour of its background."""
    cells = [rows[top + y][left : left + 8] for y in range(_HEIGHT)]
    colours = {colour for cell in cells for colour in cell}
    if len(colours) == 1:
        return " "
    for ground in colours:
        shape = bytes(sum((colour != ground) << (7 - x) for x, colour in enumerate(cell)) for cell in cells)
        if found := _font().get(shape):
            return found
    return "?"
