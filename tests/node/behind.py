"""Lets a test's QEMU hold back its guest's writes, as it may where `vm.unprivileged_userfaultfd` is 1."""

from __future__ import annotations

import os

import pytest

from bocage.engine.qemu import isolation

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process another capability")


def allowed(patch: pytest.MonkeyPatch) -> None:
    """Give each QEMU that is started from now on CAP_SYS_PTRACE, which counts for the same."""
    identity = isolation._identity

    def with_one_capability(owner: isolation.Owner | None) -> list[str]:
        more = {
            "--inh-caps=-all": "--inh-caps=-all,+sys_ptrace",
            "--bounding-set=-all": "--bounding-set=-all,+sys_ptrace",
        }
        argv = [more.get(one, one) for one in identity(owner)]
        return [*argv, "--ambient-caps=+sys_ptrace"]

    patch.setattr(isolation, "_identity", with_one_capability)
