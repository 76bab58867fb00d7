"""Phantoms: seeded patients in made-up scanners, with their true labels."""

from oarseg.phantom.case import Phantom, Truth, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.phantom.write_cases import write_cases

__all__ = ["Phantom", "PhantomSpec", "Truth", "make_phantom", "write_cases"]
