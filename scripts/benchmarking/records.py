"""The results file: one record for each case, so that cases can be measured at different times and places."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarking.plan import MODELS, Case

SCHEMA = 1
NOT_MADE = "its file was not made"
"""What a contender's reason begins with where its file broke, which is no property of the machine."""

LONGEST = 300
"""Letters of what jsonschema says, its last ones: before them it may repeat the whole file."""


@dataclass(frozen=True)
class Record:
    """What was measured for one case.

    Attributes:
        case: Which.
        command: That measured it.
        machine: See :func:`scripts.benchmarking.machine.machine`.
        versions: Of packages.
        sources: A hash of the exporter's sources and what else an artifact depends on.
        missing: Why there is no result, or empty.
        result: What the part's measurement returns.
    """

    case: Case
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    sources: str
    missing: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in the file."""
        return {**vars(self), "case": self.case.to_json()}

    def holds(self, machine: dict[str, Any], versions: dict[str, str], sources: str) -> bool:
        """Say whether all that it was measured with is the same; a package that is gone since takes nothing from it."""
        return self.machine == machine and self.sources == sources and versions.items() <= self.versions.items()

    def contenders(self) -> dict[str, str]:
        """Return who took part, each with why it has no result, or nothing."""
        return {name: row["missing"] for name, row in self.result.get("contenders", {}).items()}

    def broken(self) -> str:
        """Say why a file that contenders load was not made, or nothing."""
        return next((why for why in self.contenders().values() if why.startswith(NOT_MADE)), "")


class Records:
    """A results file, read once, and written whole after each change."""

    def __init__(self, path: Path) -> None:
        """Read a file, if it is there.

        Raises:
            ValueError: It cannot be read, or is not as its schema says.
        """
        self._path = path
        self._records: dict[Case, Record] = {}
        for one in _read(path):
            record = Record(**{**one, "case": Case(**one["case"])})
            self._records[record.case] = record

    def put(self, record: Record) -> str:
        """Keep a record in place of an earlier one, unless that would lose what still holds.

        One without a result does not replace one with a result. One in which contenders have no result does not replace
        one in which they have, as long as that was measured on the same machine, of the same sources and with the same
        versions: it would hold what this one holds, and more.

        Returns:
            Why the earlier one stays, or nothing.
        """
        earlier = self._records.get(record.case)
        if earlier and not earlier.missing:
            if record.missing:
                return "the earlier record stays"
            found = record.contenders()
            lost = [name for name, why in earlier.contenders().items() if not why and found.get(name, "unknown")]
            if lost and earlier.holds(record.machine, record.versions, record.sources):
                return f"the earlier record stays, for this one lacks {', '.join(lost)}"
        self._records[record.case] = record
        self._write()
        return ""

    def get(self, case: Case) -> Record | None:
        """Return the record of a case."""
        return self._records.get(case)

    def of(self, part: str) -> list[Record]:
        """Return a part's records: networks in the plan's order, each in the order in which it was first measured."""
        found = [record for case, record in self._records.items() if case.part == part]
        return sorted(found, key=lambda record: (*MODELS, record.case.model).index(record.case.model))

    def __iter__(self) -> Any:
        """Go through all records."""
        return iter(self._records.values())

    def _write(self) -> None:
        """Replace the file in one step: an interruption leaves the old one or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(".part")
        text = ",\n".join("  " + json.dumps(record.to_json()) for record in self._records.values())
        aside.write_text(f'{{"schema": {SCHEMA}, "records": [\n{text}\n]}}\n')
        os.replace(aside, self._path)


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file, if it is there, once they are known to be as the schema says."""
    import jsonschema

    try:
        stored = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(stored, dict) and stored.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"{path} has schema {stored['schema']!r}; this version reads {SCHEMA}")
    schema = json.loads(Path(__file__).with_name("results.schema.json").read_text())
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(stored))
    if wrong is not None:
        said = wrong.message if len(wrong.message) <= LONGEST else f"… {wrong.message[-LONGEST:]}"
        raise ValueError(f"{path} is no file of results: {wrong.json_path}: {said}")
    return stored["records"]
