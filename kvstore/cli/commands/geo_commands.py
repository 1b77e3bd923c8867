"""The verbs of a store with regions: the current region, staleness, links, typed keys, and the log."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final

import kvstore
from kvstore.cli.commands.command import FORMAT, Command, Invocation, Parameter
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.graph import graph_lines
from kvstore.cli.formats.tables import clip, fact_lines, row_lines, value_text
from kvstore.cli.language.printing import show, type_name

_KEY: Final = Parameter("KEY", "key")
_PREFIX: Final = Parameter("PREFIX", "key", required=False)
_N: Final = Parameter("N", "number")
_MEMBER: Final = Parameter("MEMBER", "value")
_LINK: Final = (Parameter("REGION", "region"), Parameter("OTHER", "region"))


# -- the current region, and how far it is behind --------------------------------------------------


def stand(call: Invocation) -> None:
    if "REGION" in call.given:
        call.session.move(call.given["REGION"])
        return
    for name in call.session.regions.regions():
        call.out(f"{'*' if name == call.region.name else ' '} {name}")


def staleness(call: Invocation) -> None:
    rows = [
        (region, stale.nodes, round(stale.seconds, 3), stale.problem)
        for region, stale in call.region.staleness().items()
    ]
    call.out_all(row_lines(("region", *kvstore.Staleness._fields), rows, call.style()))


def lost_writes(call: Invocation) -> None:
    found = call.region.lost_writes(call.given.get("PREFIX"))
    call.out_all(row_lines(kvstore.LostWrite._fields, found, call.style()))


# -- links -----------------------------------------------------------------------------------------


def cut_link(call: Invocation) -> None:
    call.session.regions.cut(*_link(call))
    call.out(f"{_link_text(call)} is cut")


def heal_link(call: Invocation) -> None:
    call.session.regions.heal(*_link(call))
    call.out(f"{_link_text(call)} is healed")


def delay_link(call: Invocation) -> None:
    milliseconds = call.given["MS"]
    call.session.regions.delay(*_link(call), milliseconds)
    call.out(f"{_link_text(call)} takes {milliseconds} ms")


def settle(call: Invocation) -> None:
    call.session.regions.settle(call.given.get("SECONDS", 10))
    call.out("settled")


def _link(call: Invocation) -> tuple[str, str]:
    return call.given["REGION"], call.given["OTHER"]


def _link_text(call: Invocation) -> str:
    return "the link of {} and {}".format(*_link(call))


# -- counters, sets, bounded counters --------------------------------------------------------------


def _records(call: Invocation) -> Any:
    """Return the open transaction or the region: both have counters, sets and bounded counters."""
    return call.records


def counter(call: Invocation) -> None:
    key, found = call.given["KEY"], _records(call).counter(call.given["KEY"])
    if "N" not in call.given:
        call.out(value_text(found.value(), call.style()))
        return
    number = call.given["N"]
    value = found.add(number)
    if call.session.transaction is None:
        call.out(f"{show(key)} = {show(value)}  {type_name(value)}")
    else:
        call.out(f"{show(key)} += {show(number)}  {type_name(number)}")


def bounded(call: Invocation) -> None:
    found = _records(call).bounded(call.given["KEY"])
    rights = {region: found.rights(region) for region in call.session.regions.regions()}
    call.out_all(fact_lines({"value": found.value(), "rights": rights}, call.style()))


def bounded_add(call: Invocation) -> None:
    key, number, owner = call.given["KEY"], call.given["N"], call.given.get("to")
    _records(call).bounded(key).add(number, owner)
    call.out(f"{show(key)} += {show(number)}, for {owner or call.region.name} to spend")


def spend(call: Invocation) -> None:
    key, number = call.given["KEY"], call.given["N"]
    _records(call).bounded(key).spend(number)
    call.out(f"{show(key)} -= {show(number)}")


def grant(call: Invocation) -> None:
    key, number, taker = call.given["KEY"], call.given["N"], call.given["REGION"]
    _records(call).bounded(key).grant(number, taker)
    call.out(f"{show(number)} of {show(key)} granted to {taker}")


def set_add(call: Invocation) -> None:
    key, member = call.given["KEY"], call.given["MEMBER"]
    _records(call).set(key).add(member)
    call.out(f"{show(member, as_stored=True)} added to {show(key)}")


def set_remove(call: Invocation) -> None:
    key, member = call.given["KEY"], call.given["MEMBER"]
    _records(call).set(key).remove(member)
    call.out(f"{show(member, as_stored=True)} removed from {show(key)}")


def members(call: Invocation) -> None:
    found = sorted(_records(call).set(call.given["KEY"]).members(), key=show)
    call.out_all(row_lines(("member",), ((member,) for member in found), call.style()))


# -- the log ---------------------------------------------------------------------------------------


def append(call: Invocation) -> None:
    payload = call.given["PAYLOAD"]
    if isinstance(payload, str):
        payload = payload.encode()
    call.out(_name(call.region.log.append(_colors(call.given["COLORS"]), payload)))


def _colors(value: Any) -> Any:
    """Return a list of colors; the log refuses a value that is no color."""
    return [value] if type(value) in (int, float) else value


def log(call: Invocation) -> None:
    """Print nodes, newest first. Nodes are read oldest first, and only the last ``limit`` nodes are kept."""
    limit, colors = call.limit(), call.given.get("colors")
    if limit is not None and limit < 0:
        raise Misuse(f"limit must be at least 0, not {limit}")
    if "graph" in call.given and "format" in call.given:
        raise Misuse("--graph draws a picture: leave out --format")
    found = call.region.log
    played = found.sync(None if colors is None else _colors(colors))
    shown = None if limit is None else min(limit, sys.maxsize)
    if "graph" in call.given:
        nodes = deque(played, maxlen=shown)
        causes = found.causes(nodes)
        call.out_all(graph_lines(list(nodes), causes, call.session.regions.regions(), _Beside(call, nodes)))
        return
    nodes, bare = deque(maxlen=shown), []
    for node in played:
        nodes.append(node)
        bare.append(node._replace(payload=None, effects=()))
    causes = found.causes(bare)  # of all nodes, so that a shown node names its direct causes
    rows = (_row(node, causes[node.id]) for node in reversed(nodes))
    call.out_all(row_lines(("id", "time", "colors", "behind", "payload", "effects"), rows, call.style()))


def _row(node: kvstore.Node, causes: Iterable[kvstore.NodeId]) -> tuple[Any, ...]:
    behind = [_name(cause) for cause in causes]
    effects = [_effect(effect) for effect in node.effects]
    return _name(node.id), node.time, list(node.colors), behind, node.payload, effects


def _name(node: kvstore.NodeId) -> str:
    return f"{node.region}/{node.color}/{node.index}"


class _Beside:
    """The text beside a node of the picture: time, name, colors and effects, up to the margin."""

    def __init__(self, call: Invocation, nodes: Iterable[kvstore.Node]) -> None:
        self._width = call.settings.width()
        self._name_width = max((len(_name(node.id)) for node in nodes), default=0)
        self._colors_width = max((len(show(list(node.colors))) for node in nodes), default=0)

    def __call__(self, node: kvstore.Node, unsaid: Sequence[kvstore.NodeId], before: int) -> str:
        time = datetime.fromtimestamp(node.time / 1e9).strftime("%H:%M:%S.%f")[:-3]
        name = f"{_name(node.id):{self._name_width}}"
        text = f"{time}  {name}  {show(list(node.colors)):{self._colors_width}}  "
        if unsaid:
            text += f"(behind {', '.join(map(_name, unsaid))})  "
        if self._width is None:
            return text + _done(node, None)
        room = max(1, self._width - before)
        return clip(text + _done(node, room), room)


def _done(node: kvstore.Node, room: int | None) -> str:
    """Return a node's effects as commands, or its payload; no more is built than there is room for."""
    if node.payload is not None:
        return show(node.payload[:room])
    return "; ".join(_effect(effect) for effect in islice(node.effects, room))


def _effect(effect: kvstore.Effect) -> str:
    key, value = show(effect.key), show(effect.value, as_stored=True)
    match effect.kind:
        case "delete":
            return f"delete {key}"
        case "credit":
            return f"bounded-add {key} {value} --to {effect.region}"
        case "grant":
            return f"grant {key} {value} {effect.region}"
        case kind:
            return f"{kind.replace('_', '-')} {key} {value}"


_Command = partial(Command, of_regions=True, shell_only=True)

GEO_COMMANDS: Final = (
    _Command(
        name="region",
        about="Change to another region; without a name, print all regions and mark the current one.",
        example="region",
        run=stand,
        terms=(Parameter("REGION", "region", required=False),),
    ),
    _Command(
        name="staleness",
        about="Print how far this region is behind each other region.",
        example="staleness",
        run=staleness,
        options=(FORMAT,),
    ),
    _Command(
        name="lost-writes",
        about="Print writes that lost to a concurrent write, until a write that saw them replaces them.",
        example='lost-writes ("acct",)',
        run=lost_writes,
        terms=(_PREFIX,),
        options=(FORMAT,),
    ),
    _Command(
        name="counter",
        about="Print the value of a counter, or add a number to it: adds of all regions count.",
        example="counter visits 2",
        run=counter,
        in_transaction="takes part",
        terms=(_KEY, Parameter("N", "number", required=False)),
        options=(FORMAT,),
    ),
    _Command(
        name="bounded",
        about="Print the value of a bounded counter, and how much of it each region may spend.",
        example="bounded stock",
        run=bounded,
        in_transaction="takes part",
        terms=(_KEY,),
        options=(FORMAT,),
    ),
    _Command(
        name="bounded-add",
        about="Add to a bounded counter, for this region or another to spend.",
        example="bounded-add stock 10",
        run=bounded_add,
        in_transaction="takes part",
        terms=(_KEY, _N),
        options=(Parameter("to", "region", "the region that may spend it"),),
        writes=True,
    ),
    _Command(
        name="spend",
        about="Subtract from a bounded counter, out of what this region may spend.",
        example="bounded-add stock 10; spend stock 3",
        run=spend,
        in_transaction="takes part",
        terms=(_KEY, _N),
        writes=True,
    ),
    _Command(
        name="grant",
        about="Transfer the right to spend N from this region to another.",
        example="bounded-add stock 10; grant stock 4 us",
        run=grant,
        in_transaction="takes part",
        terms=(_KEY, _N, Parameter("REGION", "region")),
        writes=True,
    ),
    _Command(
        name="set-add",
        about="Add a member to a set; an add wins over a concurrent removal.",
        example="set-add tags blue",
        run=set_add,
        in_transaction="takes part",
        terms=(_KEY, _MEMBER),
        writes=True,
    ),
    _Command(
        name="set-remove",
        about="Remove a member from a set; a missing member is no error.",
        example="set-remove tags blue",
        run=set_remove,
        in_transaction="takes part",
        terms=(_KEY, _MEMBER),
        writes=True,
    ),
    _Command(
        name="members",
        about="Print the members of a set.",
        example="members tags",
        run=members,
        in_transaction="takes part",
        terms=(_KEY,),
        options=(FORMAT,),
    ),
    _Command(
        name="cut",
        about="Block all messages between two regions, until heal.",
        example="cut eu us",
        run=cut_link,
        terms=_LINK,
    ),
    _Command(
        name="heal",
        about="Restore a link that was cut.",
        example="heal eu us",
        run=heal_link,
        terms=_LINK,
    ),
    _Command(
        name="delay",
        about="Delay messages between two regions by MS milliseconds, both ways.",
        example="delay eu us 40",
        run=delay_link,
        terms=(*_LINK, Parameter("MS", "number")),
    ),
    _Command(
        name="settle",
        about="Wait until all regions joined by uncut links have equal data; at most 10 seconds.",
        example="settle 5",
        run=settle,
        terms=(Parameter("SECONDS", "number", required=False),),
    ),
    _Command(
        name="append",
        about="Append a node to the log, with one or several colors, and print its name.",
        example="append [0, 1] 'first light'",
        run=append,
        in_transaction="refused",
        terms=(Parameter("COLORS", "value"), Parameter("PAYLOAD", "value")),
    ),
    _Command(
        name="log",
        about="Print the log as this region holds it, newest first; or draw it, a lane for each region.",
        example="log --graph --limit 20",
        run=log,
        options=(
            Parameter("graph", "flag", "draw the log as a graph"),
            Parameter("limit", "number", "the most nodes to print"),
            Parameter("colors", "value", "a color, or a list of them"),
            FORMAT,
        ),
    ),
)
