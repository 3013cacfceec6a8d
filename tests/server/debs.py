"""Bocage's Debian packages: this checkout's, and that of the release before."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

from tests.releases import older

BEFORE = "0.0.999"
TOP = pathlib.Path(__file__).parents[2]
_WRITES_UNITS = """
import pathlib, sys
from bocage import systemd
systemd.write(systemd.units(["/usr/bin/bocage"]), pathlib.Path(sys.argv[1]))"""


def present(into: pathlib.Path) -> pathlib.Path:
    """The package of this checkout."""
    if not list(into.glob("bocage_*.deb")):
        subprocess.run([TOP / "script" / "package", "--into", into], check=True, capture_output=True, timeout=600)
    return next(into.glob("bocage_*.deb"))


def before(deb: pathlib.Path, release: str) -> pathlib.Path:
    """The package of an earlier release: its code, units and scripts, on the libraries that the present one has.

    It calls itself `BEFORE`, since what is in the making has the number of what was kept of it.
    """
    tree, old, made = deb.parent / "tree", deb.parent / "before", deb.with_name(f"before_{BEFORE}.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {BEFORE}-1", control.read_text()))
    (tree / "DEBIAN" / "md5sums").unlink()
    (code,) = tree.glob("usr/lib/bocage/lib/*/site-packages/bocage")
    old.mkdir()
    source = older.unpack(release, old, "script/debian")
    shutil.rmtree(code)
    shutil.copytree(source / "bocage", code)
    number = code / "__init__.py"
    number.write_text(re.sub(r'"[\d.]+"', f'"{BEFORE}"', number.read_text(), count=1))
    # Debian's Python, as script/package has it.
    compiling = ("compileall", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", "/")
    subprocess.run(["/usr/bin/python3", "-m", *compiling, code], check=True)
    units = tree / "usr/lib/systemd/system"
    shutil.rmtree(units)
    units.mkdir()
    subprocess.run([sys.executable, "-c", _WRITES_UNITS, units], check=True, env={"PYTHONPATH": str(source)})
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(old / "script/debian" / script, tree / "DEBIAN" / script)
        (tree / "DEBIAN" / script).chmod(0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", tree, made], check=True)
    shutil.rmtree(tree)
    shutil.rmtree(old)
    return made
