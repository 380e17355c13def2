"""Why weights do not fit a network: what is missing, unexpected or of another shape, and what that tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

Layout = dict[str, tuple[tuple[int, ...], bool]]
"""Key -> shape, and whether the numbers are floating-point."""


def describe(found: Layout, wanted: Layout) -> str:
    """Say how a state dict differs from a network's own, and the likely cause.

    Args:
        found: The file's.
        wanted: The network's. The two differ.
    """
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    common = [key for key in wanted if key in found]
    reshaped = {key: (found[key][0], wanted[key][0]) for key in common if found[key][0] != wanted[key][0]}
    retyped = [key for key in common if found[key][1] != wanted[key][1] and key not in reshaped]
    lists = {
        "missing": missing,
        "unexpected": unexpected,
        "wrongly shaped": [f"{key} {list(theirs)} for {list(ours)}" for key, (theirs, ours) in reshaped.items()],
        "of another kind of number": [
            f"{key} {'floating-point for whole' if found[key][1] else 'whole for floating-point'}" for key in retyped
        ],
    }
    parts = [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
        for kind, keys in lists.items()
        if keys
    ]
    return f"{'; '.join(parts)}. Likely cause: {_cause(found, wanted, missing, unexpected, reshaped)}."


def _cause(
    found: Layout,
    wanted: Layout,
    missing: list[str],
    unexpected: list[str],
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> str:
    """Work the likely cause out from the evidence."""
    if not (missing or unexpected):
        return _cause_of_shapes(reshaped) if reshaped else "the weights are quantised, or of another program"
    if not wanted:
        return "the network has no weights at all"
    if prefix := _below(found, wanted):
        return f"the network is a part of the saved one, its {prefix!r}: save the state_dict() of that part alone"
    if prefix := _below(wanted, found):
        return f"the file holds a part of the network, its {prefix!r}: save the state_dict() of the whole"
    common = len(wanted) - len(missing)
    if not common and Counter(found.values()) == Counter(wanted.values()):
        return "the same network with other names for its layers, as another version of the code has them"
    if not common:
        return "the file is of another architecture, no key is in both"
    if not missing:
        return (
            f"the file is of a larger variant: all {common} keys of the network are in it, and {len(unexpected)} more"
        )
    if not unexpected:
        return f"the file is of a smaller variant, or lacks {_modules(missing)}: save the whole network's state_dict()"
    if common >= len(wanted) / 2 and len(_parents(missing)) == len(_parents(unexpected)) == 1:
        return (
            f"the file's {_modules(unexpected)} is the network's {_modules(missing)}: another version of the same code"
        )
    return f"the file is of another variant of the architecture: {common} of {len(wanted)} keys are in both"


def _cause_of_shapes(reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """Work the cause out where every key is right and some shapes are not."""
    same_rank = all(len(theirs) == len(ours) for theirs, ours in reshaped.values())
    pairs = {
        (axis, theirs[axis], ours[axis])
        for theirs, ours in reshaped.values()
        if same_rank
        for axis in range(len(ours))
        if theirs[axis] != ours[axis]
    }
    if len(pairs) == 1:
        ((axis, theirs_size, ours_size),) = pairs
        name, (theirs, _) = next(iter(reshaped.items()))
        if axis == 0:  # a layer inside the network would change what the next one takes, too
            return (
                f"another number of classes, {theirs_size} in the file and {ours_size} in the network. "
                f"Pass --model-args '{{\"num_classes\": {theirs_size}}}' if the factory takes that"
            )
        if axis == 1 and len(theirs) > 2:
            return (
                f"another number of input channels, {theirs_size} in the file and {ours_size} in the network; "
                f"see {name}, the factory's arguments and --input-shape"
            )
        if axis == 1:
            return f"another image size or width: {name} takes {theirs_size} features in the file and {ours_size} here"
    return "another width, depth or image size of the same architecture, since every key is right"


def _below(whole: Iterable[str], part: Iterable[str]) -> str:
    """Return the prefix below which ``whole`` has every key of ``part``, or an empty string."""
    whole, part = set(whole), list(part)
    if not part:
        return ""
    prefixes = {key.removesuffix(part[0]) for key in whole if key.endswith(f".{part[0]}")}
    return next((prefix for prefix in sorted(prefixes) if all(prefix + key in whole for key in part)), "")


def _parents(keys: Iterable[str]) -> list[str]:
    """Return the modules that own some tensors, each once, in order."""
    return list(dict.fromkeys(key.rpartition(".")[0] or key for key in keys))


def _modules(keys: Iterable[str]) -> str:
    parents = _parents(keys)
    return f"{', '.join(parents[:3])}{', …' if len(parents) > 3 else ''}"
