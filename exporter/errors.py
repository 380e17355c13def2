"""Every error that Saliport raises on purpose; each message says what, where and what to do."""

from __future__ import annotations


class SaliportError(Exception):
    """A user can act on this: the command prints the message alone and exits with 2."""


class UsageError(SaliportError):
    """An argument is wrong: an unknown model, a malformed shape, an unreadable file."""


class UnsupportedModel(SaliportError):
    """The network cannot be captured, or does not return one tensor of logits ``[N, K]``."""


class UnsupportedOp(UnsupportedModel):
    """An operator of the network has no rule, or no translation to the asked-for format."""


class ArtifactError(SaliportError):
    """A folder is not an artifact, or its files are not the ones that its manifest describes."""


class OtherVersion(ArtifactError):
    """A folder is an artifact, of a version of Saliport whose manifests are made otherwise."""


class VerificationFailed(Exception):
    """A runtime disagreed with live autograd: nothing is written, and the command exits with 1."""


def first_line(error: BaseException) -> str:
    """Return what an error says first, for a sentence of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
