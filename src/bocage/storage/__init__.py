"""Where disks and images live."""

from bocage import errors


class Error(errors.Problem):
    """Anything that goes wrong with a storage, its volumes, images and archives."""
