"""What the exchange with neighbours asks of its driver: values that the driver carries out, in order."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from kvstore.errors import Corrupt, Error
from kvstore.fuzzylog.messages import LinkMessage, Pull, Want


class SendTo(NamedTuple):
    """Send the message to the neighbour."""

    neighbour: str
    message: LinkMessage


class AnswerPull(NamedTuple):
    """Read what the neighbour lacks, between ``begin_answer`` and ``finish_answer``."""

    neighbour: str
    pull: Pull


class Importable(NamedTuple):
    """Call ``next_run`` soon: chains have arrived."""


class Wanted(NamedTuple):
    """Call ``grant`` for each of these, and commit what it returns: a neighbour asks for rights."""

    wants: tuple[Want, ...]


class Refused(NamedTuple):
    """Report that the neighbour is not listened to. Sent once, until the neighbour's identity fits again."""

    neighbour: str
    problem: Error


class Stopped(NamedTuple):
    """Report that this region is an old copy, and neither ships nor imports any more."""

    problem: Corrupt


ExchangeEffect: TypeAlias = SendTo | AnswerPull | Importable | Wanted | Refused | Stopped
