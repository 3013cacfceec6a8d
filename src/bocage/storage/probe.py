"""The inspection itself, run in a process of its own (`python -m bocage.storage.probe`) within tight bounds.

What it is given is an open descriptor; what it says is one JSON object on standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import resource
import struct
import sys
import types
from typing import Any, NoReturn

from bocage.storage import detect, foreign, qcow2_header, reader, refusals

LARGEST = 64 << 40  # bytes of a virtual disk
_MEMORY = 768 << 20
_SECONDS = 20
_HEAD = 4 << 20
_CHUNK = 64 << 10
_SHORT_DISC = 150 * 2048  # bytes that burning programs leave off a disc's end


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What an image is. `virtual_size` is the size of the disk that it describes, in bytes."""

    format: str
    virtual_size: int


def examine(source: reader.Reader, *, claimed: str | None, file_name: str | None) -> Found:
    """Say what an image is, by our own reading of its headers. Raises refusals.Refused."""
    if source.size == 0:
        raise refusals.Empty(file=source.name)
    try:
        found = _format(source, claimed, file_name)
        size = _virtual_size(source, found)
    except (struct.error, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, refusals.Refused):
            raise
        raise source.malformed(type(error).__name__) from error
    if size > LARGEST:
        raise refusals.TooLarge(file=source.name, size=size, bound=LARGEST)
    if size == 0:
        raise source.malformed("it describes a disk of no size")
    return Found(format=found, virtual_size=size)


def _format(source: reader.Reader, claimed: str | None, file_name: str | None) -> str:
    found = detect.formats(source)
    if "vmdk descriptor" in found:
        raise foreign.vmdk_text(source, source.peek(0, 64 << 10))
    if "LUKS" in found:
        raise refusals.Encrypted(file=source.name, how="LUKS")
    if len(found) > 1:
        raise refusals.Polyglot(file=source.name, formats=found)
    if found and found[0] not in detect.TAKEN:
        raise refusals.Unsupported(file=source.name, found=found[0])
    real = found[0] if found else "raw"
    promised = detect.by_name(file_name) if file_name else None
    for promise, lie in ((claimed, refusals.FormatLie), (promised, refusals.NameLie)):
        if promise and promise != real:
            raise lie(file=source.name, claimed=promise, found=real)
    bare = claimed == "raw" or detect.has_partitions(source) or (file_name and detect.may_be_bare(file_name))
    if not found and not bare:
        raise refusals.Unknown(file=source.name)
    return real


def _virtual_size(source: reader.Reader, found: str) -> int:
    match found:
        case "qcow2":
            return _qcow2(source)
        case "vmdk":
            return foreign.vmdk(source)
        case "vhd":
            return foreign.vhd(source)
        case "vhdx":
            return foreign.vhdx(source)
        case "vdi":
            return foreign.vdi(source)
        case "iso":
            _whole_disc(source)
    return -(-source.size // 512) * 512


def _qcow2(source: reader.Reader) -> int:
    header = qcow2_header.parse(source)
    if header.backing is not None:
        raise refusals.BackingFile(file=source.name, backing=header.backing)
    if header.data_file is not None:
        raise refusals.DataFile(file=source.name, data_file=header.data_file)
    if header.encryption:
        raise refusals.Encrypted(file=source.name, how=header.encryption)
    return header.virtual_size


def _whole_disc(source: reader.Reader) -> None:
    volume = source.peek(32768, 2048)
    if len(volume) == 2048 and volume[:6] == b"\x01CD001":
        (blocks,) = struct.unpack_from("<I", volume, 80)
        (block_size,) = struct.unpack_from("<H", volume, 128)
        if blocks * block_size > source.size + _SHORT_DISC:
            raise refusals.Truncated(file=source.name, size=source.size, expected=blocks * block_size)


def second_opinion(source: reader.Reader, found: Found) -> None:
    """Ask oslo.utils' format inspector as well; both must agree. Raises refusals.Refused.

    It sees the first 4 MiB and the end of the file, where all that it looks at lies.
    """
    from oslo_utils.imageutils import format_inspector

    wrapper = format_inspector.InspectWrapper(_Ends(source))  # type: ignore[arg-type]
    try:
        while wrapper.read(_CHUNK):
            pass
        wrapper.close()
        seen = [one for one in wrapper.formats or [] if str(one) not in ("gpt", "raw")]
        names = sorted(str(one) for one in seen)
        # it knows neither VHDs that are told by their end alone nor discs of pure UDF
        if names != [found.format] and not (names == [] and found.format in ("raw", "vhd", "iso")):
            raise refusals.Polyglot(file=source.name, formats=sorted({*names, found.format}))
        for one in seen:
            if str(one) != "vhdx":  # nothing is checked of a VHDX, but its tables would have to lie in what we show
                one.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        # which features may be set is judged in `qcow2_header.parse`; the inspector does not know extended L2 entries
        faults = [f"{key}: {value}" for key, value in error.failures.items() if key != "unknown_features"]
        if faults:
            raise source.malformed("; ".join(faults)) from error
    except refusals.Refused:
        raise
    except Exception as error:
        raise source.malformed(f"{type(error).__name__}: {error}"[:200]) from error


class _Ends:
    """A file-like view of an image's head and tail."""

    def __init__(self, source: reader.Reader) -> None:
        self._source = source
        tail = max(0, source.size - _CHUNK)
        self._pieces = [(at, min(_CHUNK, source.size - at)) for at in range(0, min(source.size, _HEAD), _CHUNK)]
        if tail > _HEAD:
            self._pieces.append((tail, source.size - tail))
        self._pieces.reverse()

    def read(self, _size: int) -> bytes:
        return self._source.read(*self._pieces.pop()) if self._pieces else b""


def main() -> NoReturn:
    """Inspect descriptor `argv[1]` called `argv[2]`; `argv[3]` and `argv[4]` are the claims, empty for none."""
    descriptor, name, claimed, file_name = int(sys.argv[1]), *sys.argv[2:5]
    logging.disable()
    source = reader.Reader(descriptor=descriptor, size=os.fstat(descriptor).st_size, name=name)
    _pass_by_the_face()
    import oslo_utils.imageutils.format_inspector  # noqa: F401 - loaded before the bounds close

    _close_in()
    said: dict[str, Any]
    try:
        found = examine(source, claimed=claimed or None, file_name=file_name or None)
        second_opinion(source, found)
        said = dataclasses.asdict(found)
    except refusals.Refused as refusal:
        said = {"refused": refusal.type, "params": refusal.params}
    print(json.dumps(said))  # noqa: T201 - this is its answer
    sys.exit(0)


def _pass_by_the_face() -> None:
    """Stand in for a package whose `__init__` loads much more than the inspector: half of the time of all this."""
    package = importlib.util.find_spec("oslo_utils")
    places = (package and package.submodule_search_locations) or []
    face = types.ModuleType("oslo_utils.imageutils")
    face.__path__ = [os.path.join(place, "imageutils") for place in places]
    sys.modules[face.__name__] = face


def _close_in() -> None:
    """Bound what the file can make this process do, and give up root: the descriptor is all that it needs."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getuid() == 0:
        with contextlib.suppress(OSError):  # in a user namespace without such ids there is nothing to give up
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)


if __name__ == "__main__":
    main()
