"""Frames as a hostile guest sends them, and the program on a disk that sends and hears them inside a guest."""

from __future__ import annotations

import io
import ipaddress
import pathlib
import re
import struct
import subprocess
import tarfile

from bocage.network import fences

EVERYBODY = "ff:ff:ff:ff:ff:ff"
WORD = "bocage-test-"
END = "the-end"
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_ARP, _IP, _IP6, _VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
_ICMP, _UDP, _ICMP6, _FRAGMENT = 1, 17, 58, 44
_RUN = "/mnt/ld.so --library-path /mnt /mnt/frames"


_SOURCE = pathlib.Path(__file__).with_suffix(".c")


def disc(scratch: pathlib.Path, source: pathlib.Path = _SOURCE) -> bytes:
    """What a disk holds (an archive) with a program, and what a program needs that is not linked statically."""
    program = scratch / source.stem
    subprocess.run(["tcc", "-o", str(program), str(source)], check=True)
    needs = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    libraries = re.findall(r"(/\S+)", needs)
    files = {source.stem: program}
    files |= {"ld.so" if "/ld-" in one else one.rsplit("/", 1)[1]: pathlib.Path(one) for one in libraries}
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", dereference=True) as archive:
        for name, file in files.items():
            archive.add(file, name)
    return held.getvalue()


SETUP = "mkdir -p /mnt; tar -x -f /dev/vdb -C /mnt"


def sending(frames: list[bytes]) -> list[str]:
    """What a guest is told to type, line by line, to have a file `/tmp/f` with these frames; then to send them."""
    lines = [": >/tmp/f"]
    for frame in frames:
        text = frame.hex()
        lines += [f"printf %s {text[at : at + 800]} >>/tmp/f" for at in range(0, len(text), 800)]
        lines.append("echo >>/tmp/f")
    return [*lines, f"{_RUN} send eth0 </tmp/f"]


HEARING = f"{_RUN} hear eth0 {WORD} {END}"


def mark(name: str) -> bytes:
    """What a frame is known by."""
    return f"{WORD}{name}.".encode()


def ethernet(payload: bytes, kind: int, source: str, to: str = EVERYBODY) -> bytes:
    return _mac(to) + _mac(source) + struct.pack("!H", kind) + payload.ljust(46, b"\0")


def tagged(frame: bytes, vlan: int, kind: int = _VLAN) -> bytes:
    """The same frame on a VLAN."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def arp_reply(name: str, address: str, *, source: str, of: str | None = None) -> bytes:
    """Says that `address` is at the MAC `of`, else at its source; to everybody."""
    host = ipaddress.IPv4Address(address).packed
    body = struct.pack("!HHBBH", 1, _IP, 6, 4, 2) + _mac(of or source) + host + _mac(EVERYBODY) + host
    return ethernet(body + mark(name), _ARP, source)


def arp_probe(name: str, address: str, *, source: str) -> bytes:
    """Asks, without an address, whether somebody has `address` (RFC 5227, 2.1.1)."""
    body = struct.pack("!HHBBH", 1, _IP, 6, 4, 1) + _mac(source) + bytes(10) + ipaddress.IPv4Address(address).packed
    return ethernet(body + mark(name), _ARP, source)


def lease_request(name: str, of: str, *, source: str, address: str = "0.0.0.0") -> bytes:
    """A DHCP request for the NIC with the MAC `of`."""
    bootp = struct.pack("!BBBB24x", 1, 1, 6, 0) + _mac(of) + bytes(10) + mark(name).ljust(192, b"\0")
    return datagram(name, address, source=source, ports=(68, 67), payload=bootp)


def datagram(
    name: str, address: str, *, source: str, ports: tuple[int, int] = (4000, 4000), payload: bytes = b""
) -> bytes:
    """A UDP packet to everybody, from an address."""
    payload = payload or mark(name)
    return _ip(struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, _UDP, address, source)


def echo_request(name: str, address: str, *, source: str) -> bytes:
    """A ping to everybody, from an address."""
    body = struct.pack("!BBHI", 8, 0, 0, 1) + mark(name)
    return _ip(body[:2] + _checksum(body) + body[4:], _ICMP, address, source)


def datagram6(name: str, address: str, *, source: str, ports: tuple[int, int] = (4000, 4000)) -> bytes:
    udp = struct.pack("!HHHH", *ports, 8 + len(mark(name)), 0) + mark(name)
    return _ip6(udp, _UDP, ipaddress.IPv6Address(address), source)


def advertisement(name: str, *, source: str, pieces: bool = False, address: str = "") -> bytes:
    """A router advertisement (RFC 4861, 4.2); in `pieces`: with a fragment header."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + _option(name)
    return _discovery(body, source, pieces=pieces, address=address)


def redirect(name: str, *, source: str) -> bytes:
    body = struct.pack("!BBHI", 137, 0, 0, 0) + fences.link_local(source).packed + _ALL_NODES.packed + _option(name)
    return _discovery(body, source)


def neighbour(name: str, address: str, *, source: str, pieces: bool = False) -> bytes:
    """A neighbour advertisement: says that `address` is at `source`."""
    body = struct.pack("!BBHI", 136, 0, 0, 0x2000_0000) + ipaddress.IPv6Address(address).packed
    return _discovery(body + b"\x02\x01" + _mac(source) + _option(name), source, pieces=pieces)


def solicitation(name: str, address: str, *, source: str, sender: str = "::") -> bytes:
    """Asks for a neighbour; without an address of its own, whether it may take that one (RFC 4862, 5.4.2)."""
    body = struct.pack("!BBHI", 135, 0, 0, 0) + ipaddress.IPv6Address(address).packed + _option(name)
    return _discovery(body, source, address=sender)


def _discovery(body: bytes, source: str, *, pieces: bool = False, address: str = "") -> bytes:
    sender = ipaddress.IPv6Address(address) if address else fences.link_local(source)
    pseudo = sender.packed + _ALL_NODES.packed + struct.pack("!II", len(body), _ICMP6)
    body = body[:2] + _checksum(pseudo + body) + body[4:]
    if pieces:
        return _ip6(struct.pack("!BBHI", _ICMP6, 0, 0, 7) + body, _FRAGMENT, sender, source)
    return _ip6(body, _ICMP6, sender, source)


def _option(name: str) -> bytes:
    """What receivers that do not know it pass over."""
    text = mark(name)
    whole = -(-(len(text) + 2) // 8)
    return (bytes((253, whole)) + text).ljust(whole * 8, b"\0")


def _ip(payload: bytes, kind: int, address: str, source: str) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, kind, 0)
    header += ipaddress.IPv4Address(address).packed + b"\xff" * 4
    return ethernet(header[:10] + _checksum(header) + header[12:] + payload, _IP, source)


def _ip6(payload: bytes, kind: int, address: ipaddress.IPv6Address, source: str) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), kind, 255) + address.packed + _ALL_NODES.packed
    return ethernet(header + payload, _IP6, source, "33:33:00:00:00:01")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
