"""Bocage: one or many physical servers as a ground for virtual machines."""

__version__ = "0.1.0"
