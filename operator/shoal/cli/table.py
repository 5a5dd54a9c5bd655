"""What `status` and `run` show of the three kinds: plain rows, made from the resources alone."""

from typing import Any

Json = dict[str, Any]
Row = tuple[str, ...]

JOB_HEAD: Row = ("JOB", "PHASE", "STEP", "VERSION", "REWARD", "SUCCESS", "TRAINED", "STALENESS", "FAULTS", "MESSAGE")
POOL_HEAD: Row = ("POOL", "READY", "SLOTS", "LEASED", "FREE", "QUEUED", "MESSAGE")
FLEET_HEAD: Row = ("FLEET", "READY", "VERSIONS", "TARGET", "QUEUED", "RUNNING", "MESSAGE")


def condition(body: Json, type_: str) -> Json:
    """The condition of this type, or an empty object."""
    for each in body.get("status", {}).get("conditions", []):
        if each["type"] == type_:
            return dict(each)
    return {}


def trouble(body: Json) -> str:
    """The message that a person should read first: what is degraded, or what is waited for."""
    for type_ in ("Failed", "Degraded"):
        found = condition(body, type_)
        if found.get("status") == "True":
            return f"{found['reason']}: {found.get('message', '')}"
    progressing = condition(body, "Progressing")
    available = condition(body, "Available")
    if available.get("status") == "False":
        return str(available.get("message", ""))
    return str(progressing.get("message", "")) if progressing.get("status") == "False" else ""


def job_row(body: Json) -> Row:
    """One RLJob."""
    status = body.get("status", {})
    reward, evaluation = status.get("reward", {}), status.get("evaluation", {})
    counts, staleness = status.get("trajectories", {}), status.get("staleness", {})
    return (
        body["metadata"]["name"],
        status.get("phase", "Pending"),
        f"{status.get('step', 0)}/{status.get('steps', '?')}",
        _version(status.get("weightVersion", 0)),
        reward.get("window") or "-",
        evaluation.get("latest") or evaluation.get("initial") or "-",
        str(counts.get("trained", 0)),
        f"{staleness.get('p50', 0)}/{staleness.get('max', 0)}",
        str(counts.get("faults", 0)),
        trouble(body),
    )


def pool_row(body: Json) -> Row:
    """One EnvironmentPool."""
    status = body.get("status", {})
    slots = status.get("slots", {})
    return (
        body["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{status.get('desiredReplicas', 0)}",
        str(slots.get("total", 0)),
        str(slots.get("leased", 0)),
        str(slots.get("free", 0)),
        str(status.get("queued", 0)),
        trouble(body),
    )


def fleet_row(body: Json) -> Row:
    """One RolloutFleet."""
    status = body.get("status", {})
    versions = status.get("weightVersion", {})
    engines = status.get("engines", [])
    return (
        body["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{status.get('desiredReplicas', 0)}",
        " ".join(_version(engine.get("weightVersion", -1)) for engine in engines) or "-",
        _version(versions.get("target", -1)),
        str(status.get("queued", 0)),
        str(sum(engine.get("running", 0) for engine in engines)),
        trouble(body),
    )


def _version(number: int) -> str:
    """A weight version; "-" before the first one is there."""
    return str(number) if number >= 0 else "-"


def render(head: Row, rows: list[Row]) -> str:
    """Columns aligned with two spaces between them, as kubectl does; "" without rows."""
    if not rows:
        return ""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
    return "\n".join(lines) + "\n"
