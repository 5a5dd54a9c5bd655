"""Counts that a status reads, kept by the store itself as rows change: reading them costs the same at any size.

Triggers, because no code path can forget them.
"""

import sqlite3

_STATE = "CASE {0} WHEN 'open' THEN 'recorded' WHEN 'complete' THEN 'grouped' ELSE {0} END"
_ADD = (
    "INSERT INTO counters (name, key, value) SELECT {name}, {key}, {value} WHERE {when}"
    " ON CONFLICT (name, key) DO UPDATE SET value = value + excluded.value;"
)


def _add(name: str, key: str, value: str, when: str = "1") -> str:
    return _ADD.format(name=f"'{name}'", key=key, value=value, when=when)


_TRAINS = "(SELECT kind FROM groups WHERE id = {0}.group_id) = 'train'"

TRIGGERS = f"""
CREATE TRIGGER IF NOT EXISTS count_assignment AFTER INSERT ON assignments
BEGIN {_add("state", "NEW.state", "1", "NEW.state IN ('pending', 'assigned') AND " + _TRAINS.format("NEW"))} END;

CREATE TRIGGER IF NOT EXISTS count_assignment_move AFTER UPDATE OF state ON assignments WHEN OLD.state <> NEW.state
BEGIN
  {_add("state", "OLD.state", "-1", "OLD.state IN ('pending', 'assigned') AND " + _TRAINS.format("NEW"))}
  {_add("state", "NEW.state", "1", "NEW.state IN ('pending', 'assigned') AND " + _TRAINS.format("NEW"))}
END;

CREATE TRIGGER IF NOT EXISTS count_trajectory AFTER INSERT ON trajectories
BEGIN
  {_add("outcome", "NEW.outcome", "1")}
  INSERT INTO counters (name, key, value)
    SELECT 'state', {_STATE.format("state")}, 1 FROM groups WHERE id = NEW.group_id AND kind = 'train'
    ON CONFLICT (name, key) DO UPDATE SET value = value + 1;
END;

CREATE TRIGGER IF NOT EXISTS count_group_move AFTER UPDATE OF state ON groups
WHEN OLD.state <> NEW.state AND NEW.kind = 'train'
BEGIN
  {_add("state", _STATE.format("OLD.state"), "-NEW.recorded")}
  {_add("state", _STATE.format("NEW.state"), "NEW.recorded")}
  {_add("dropped", "NEW.reason", "NEW.recorded", "NEW.state = 'dropped'")}
END;

CREATE TRIGGER IF NOT EXISTS count_fault AFTER INSERT ON faults
BEGIN {_add("outcome", "NEW.outcome", "1")} END;

CREATE TRIGGER IF NOT EXISTS count_training AFTER INSERT ON trainings
BEGIN
  {_add("staleness", "NEW.staleness", "1")}
  INSERT INTO step_rewards (step, total, count)
    SELECT NEW.step, reward, 1 FROM trajectories WHERE id = NEW.trajectory_id
    ON CONFLICT (step) DO UPDATE SET total = total + excluded.total, count = count + 1;
END;
"""

BACKFILL = f"""
INSERT INTO counters SELECT 'state', a.state, COUNT(*) FROM assignments a JOIN groups g ON g.id = a.group_id
  WHERE g.kind = 'train' AND a.state IN ('pending', 'assigned') GROUP BY a.state;
INSERT INTO counters SELECT 'state', {_STATE.format("g.state")}, COUNT(*) FROM trajectories t
  JOIN groups g ON g.id = t.group_id WHERE g.kind = 'train' GROUP BY 2;
INSERT INTO counters SELECT 'outcome', outcome, COUNT(*) FROM trajectories GROUP BY outcome;
INSERT INTO counters SELECT 'outcome', outcome, COUNT(*) FROM faults WHERE true GROUP BY outcome
  ON CONFLICT (name, key) DO UPDATE SET value = value + excluded.value;
INSERT INTO counters SELECT 'dropped', g.reason, COUNT(*) FROM trajectories t JOIN groups g ON g.id = t.group_id
  WHERE g.state = 'dropped' GROUP BY g.reason;
INSERT INTO counters SELECT 'staleness', staleness, COUNT(*) FROM trainings GROUP BY staleness;
INSERT INTO step_rewards SELECT x.step, SUM(t.reward), COUNT(*) FROM trainings x
  JOIN trajectories t ON t.id = x.trajectory_id GROUP BY x.step;
"""


def counts(connection: sqlite3.Connection, name: str) -> dict[str, int]:
    """The counts of one kind by key: `state`, `outcome`, `dropped` or `staleness`."""
    query = "SELECT key, value FROM counters WHERE name = ? AND value <> 0 ORDER BY key"
    return {str(row["key"]): int(row["value"]) for row in connection.execute(query, (name,))}
