"""The zoo: networks with published key layouts, and a few trained ones that ship with the project.

`names()` lists it, `entry(name)` looks one network up. Factories with options (`num_classes`, `width`, ...)
are in the family modules: `from models.resnet import resnet18`.
"""

from models import alexnet, cifar_resnet, digits, mlp, mobilenet, resnet, vgg
from models.registry import Entry, Preprocessing, entry, names, register

__all__ = [
    "Entry",
    "Preprocessing",
    "alexnet",
    "cifar_resnet",
    "digits",
    "entry",
    "mlp",
    "mobilenet",
    "names",
    "register",
    "resnet",
    "vgg",
]
