"""Head-and-neck phantoms: seeded anatomies and two scanners, with the truth beside them."""

from oarseg.phantom.case import Phantom, PhantomSpec, Truth, make_phantom
from oarseg.phantom.layout import write_cases

__all__ = ["Phantom", "PhantomSpec", "Truth", "make_phantom", "write_cases"]
