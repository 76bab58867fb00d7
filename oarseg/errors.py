"""The error tree.

    OarsegError             anything below: one sentence a user can act on
    ├── InputError          a file or value that the user gave
    │   └── NonFiniteError  an image holds NaN or infinities
    ├── WeightsError        the weights folder: manifest or ONNX files
    ├── RegistrationError   the MR could not be brought onto the CT
    ├── InferenceError      the network gave no usable answer
    ├── ResourceError       not enough memory, or no such device
    │   └── DeviceError     a device failed while it computed
    └── OutputError         a result could not be written

The command line turns these into one line on stderr. Every other exception is
a defect of ours and keeps its traceback.
"""


class OarsegError(Exception):
    """Base of every error whose message is meant for the user."""


class InputError(OarsegError):
    """A file or value that the user gave cannot be used."""


class NonFiniteError(InputError):
    """An image holds NaN or infinities; what can do without it may go on."""


class WeightsError(OarsegError):
    """The weights folder is damaged, incomplete or of another kind."""


class RegistrationError(OarsegError):
    """The MR could not be registered to the CT."""


class InferenceError(OarsegError):
    """The network's answer is unusable (NaN, infinite, wrong shape)."""


class ResourceError(OarsegError):
    """Not enough memory, or the requested device does not exist."""


class DeviceError(ResourceError):
    """A device failed, or ran out of memory, while it computed."""


class OutputError(OarsegError):
    """A result could not be written."""
