"""What a machine's devices have used, from answers as QEMU 7.2 gave them."""

from typing import Any

from bocage.engine.qemu import using


def one(qdev: str | None, reads: int) -> dict[str, Any]:
    names = ("rd_operations", "wr_operations", "rd_bytes", "wr_bytes", "rd_total_time_ns", "wr_total_time_ns")
    return {"device": "", "stats": dict.fromkeys(names, reads), **({} if qdev is None else {"qdev": qdev})}


def test_each_disk_is_counted_by_its_name_whatever_bus_it_is_on():
    answer = [
        one("/machine/peripheral/disk0/virtio-backend", 1),
        one("disk1", 2),  # scsi-hd
        one("disk2", 3),  # ide-hd
        one("cd0", 4),
        one("floppy0", 5),
        one("board.seed", 6),
        one(None, 7),  # the firmware's variables
    ]
    assert {name: use.reads for name, use in using.disks(answer).items()} == {
        "disk0": 1,
        "disk1": 2,
        "disk2": 3,
        "cd0": 4,
        "floppy0": 5,
    }
