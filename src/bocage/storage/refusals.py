"""Why a disk image is not let near QEMU."""

from __future__ import annotations

from bocage import errors, storage
from bocage.words import N_


class Refused(storage.Error, errors.Invalid, ValueError):
    """The image is unsafe, broken or not what it is said to be. `file` is the name it came under."""


class BackingFile(Refused):
    """It would make QEMU open another file: a backing file, a parent of a differencing disk."""

    type = "image-backing-file"
    text = N_("{file} is not complete: it builds on another file, '{backing}'")
    hint = N_("flatten it where it comes from, for instance with 'qemu-img convert -O qcow2'")
    file: str
    backing: str


class DataFile(Refused):
    """Its contents lie in a second file."""

    type = "image-data-file"
    text = N_("{file} is not complete: its data lie in another file, '{data_file}'")
    hint = N_("flatten it where it comes from, for instance with 'qemu-img convert -O qcow2'")
    file: str
    data_file: str


class Extent(Refused):
    """A VMDK whose descriptor names extents other than the one file itself."""

    type = "image-extent"
    text = N_("{file} is not a disk in a single file: its descriptor names '{extent}'")
    hint = N_("make one file of it where it comes from: 'qemu-img convert -O vmdk', or export it as OVA")
    file: str
    extent: str


class TooLarge(Refused):
    """The disk that it describes is larger than any that is taken."""

    type = "image-too-large"
    text = N_("{file} describes a disk of {size:size}; at most {bound:size} are taken")
    file: str
    size: int
    bound: int


class Malformed(Refused):
    """Its header does not hold together. `fault` names the field, in the words of the format's specification."""

    type = "image-malformed"
    text = N_("{file} is damaged, or was made to do harm: {fault}")
    hint = N_("compare its checksum with the publisher's, and fetch it again")
    file: str
    fault: str


class Truncated(Refused):
    """It ends before its header says."""

    type = "image-truncated"
    text = N_("{file} is cut short: it has {size:size}, its header speaks of {expected:size} or more")
    hint = N_("fetch it again")
    file: str
    size: int
    expected: int


class FormatLie(Refused):
    """It is in another format than a person said."""

    type = "image-format-lie"
    text = N_("{file} is {found}, not {claimed} as was said")
    hint = N_("check where it comes from; if it is right, say '--format {found}' or nothing")
    file: str
    claimed: str
    found: str


class NameLie(FormatLie):
    """It is in another format than the ending of its name says."""

    type = "image-name-lie"
    text = N_("{file} is {found}, though its name says {claimed}")
    hint = N_("check where it comes from; if it is right, rename it")


class Polyglot(Refused):
    """It reads as several formats at once."""

    type = "image-polyglot"
    text = N_("{file} can be read as several formats ({formats}): such files are made to deceive")
    file: str
    formats: list[str]


class Encrypted(Refused):
    """It is encrypted."""

    type = "image-encrypted"
    text = N_("{file} is encrypted ({how})")
    hint = N_("decrypt it where it comes from")
    file: str
    how: str


class Unsupported(Refused):
    """It is in a format, or a variant of one, that is not taken."""

    type = "image-unsupported"
    text = N_("{file} is {found}, which is not taken")
    hint = N_("formats taken: raw, qcow2, vmdk, vhd, vhdx, vdi, iso")
    file: str
    found: str


class Unknown(Refused):
    """Nothing tells what it is."""

    type = "image-unknown-format"
    text = N_("what {file} is cannot be told from its contents")
    hint = N_("if it is the bare contents of a disk, say '--format raw'")
    file: str


class Empty(Refused):
    """There is nothing in it."""

    type = "image-empty"
    text = N_("{file} is empty")
    file: str


class NotAFile(Refused):
    """It is a directory, a device, a pipe or a link."""

    type = "image-not-a-file"
    text = N_("{file} is not a regular file")
    file: str


class Unreadable(Refused):
    """It cannot be opened or read. `fault` is the system's word for it."""

    type = "image-unreadable"
    text = N_("{file} cannot be read: {fault}")
    file: str
    fault: str


class InspectionFailed(Refused):
    """The inspection itself was brought down by the file: more memory or time than any sane image needs."""

    type = "image-inspection-failed"
    text = N_("the inspection of {file} did not come to its end ({fault}); it is taken for hostile")
    file: str
    fault: str
