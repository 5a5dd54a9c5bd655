"""The store's tables. What must never happen is impossible by constraint: see `trainings`, which holds each trajectory
once.
"""

TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS groups (
  id INTEGER PRIMARY KEY,
  task_id TEXT NOT NULL,
  environment TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('train', 'evaluate')),
  size INTEGER NOT NULL CHECK (size > 0),
  recorded INTEGER NOT NULL DEFAULT 0 CHECK (recorded BETWEEN 0 AND size),
  state TEXT NOT NULL CHECK (state IN ('open', 'complete', 'leased', 'consumed', 'dropped', 'measured')),
  reason TEXT NOT NULL DEFAULT '',
  opened_version INTEGER NOT NULL,
  oldest_version INTEGER,
  CHECK (state <> 'complete' OR recorded = size)
);
CREATE INDEX IF NOT EXISTS groups_by_state ON groups (kind, state, id);
CREATE INDEX IF NOT EXISTS groups_by_task ON groups (task_id, kind);

CREATE TABLE IF NOT EXISTS assignments (
  id TEXT PRIMARY KEY,
  group_id INTEGER NOT NULL REFERENCES groups (id),
  position INTEGER NOT NULL,
  task TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'assigned', 'recorded', 'cancelled')),
  agent TEXT NOT NULL DEFAULT '',
  claimed_at REAL NOT NULL DEFAULT 0,
  expires_at REAL NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  resume BLOB,
  UNIQUE (group_id, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS assignments_by_state ON assignments (state, expires_at);
CREATE INDEX IF NOT EXISTS assignments_by_group ON assignments (group_id);

CREATE TABLE IF NOT EXISTS trajectories (
  id TEXT PRIMARY KEY REFERENCES assignments (id),
  group_id INTEGER NOT NULL REFERENCES groups (id),
  episode_id TEXT NOT NULL,
  reward REAL NOT NULL,
  outcome TEXT NOT NULL,
  turns INTEGER NOT NULL,
  oldest_version INTEGER NOT NULL,
  newest_version INTEGER NOT NULL,
  recorded_at REAL NOT NULL,
  record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trajectories_by_group ON trajectories (group_id);

CREATE TABLE IF NOT EXISTS batches (
  id TEXT PRIMARY KEY,
  trainer TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('leased', 'consumed', 'released')),
  version INTEGER NOT NULL,
  expires_at REAL NOT NULL,
  key TEXT UNIQUE,
  renewed INTEGER NOT NULL DEFAULT 0,
  step INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS batches_by_state ON batches (state, version);

CREATE TABLE IF NOT EXISTS batch_groups (
  batch_id TEXT NOT NULL REFERENCES batches (id),
  group_id INTEGER NOT NULL REFERENCES groups (id),
  PRIMARY KEY (batch_id, group_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS trainings (
  trajectory_id TEXT PRIMARY KEY REFERENCES trajectories (id),
  batch_id TEXT NOT NULL REFERENCES batches (id),
  step INTEGER NOT NULL,
  staleness INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trainings_by_step ON trainings (step);

CREATE TABLE IF NOT EXISTS steps (
  step INTEGER PRIMARY KEY,
  version INTEGER NOT NULL,
  finished_at REAL NOT NULL,
  metrics TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS faults (
  id INTEGER PRIMARY KEY,
  assignment_id TEXT NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  at REAL NOT NULL,
  counted INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS faults_by_outcome ON faults (outcome);
CREATE INDEX IF NOT EXISTS faults_by_assignment ON faults (assignment_id);

CREATE TABLE IF NOT EXISTS evaluations (
  group_id INTEGER PRIMARY KEY REFERENCES groups (id),
  purpose TEXT NOT NULL CHECK (purpose IN ('initial', 'periodic', 'final')),
  version INTEGER NOT NULL,
  success REAL,
  finished_at REAL
);

CREATE TABLE IF NOT EXISTS payloads (
  trajectory_id TEXT PRIMARY KEY REFERENCES trajectories (id),
  file INTEGER NOT NULL,
  start INTEGER NOT NULL,
  length INTEGER NOT NULL,
  crc INTEGER NOT NULL,
  top_token INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payloads_by_file ON payloads (file);

CREATE TABLE IF NOT EXISTS payload_files (
  file INTEGER PRIMARY KEY,
  bytes INTEGER NOT NULL,
  live INTEGER NOT NULL,
  newest_version INTEGER NOT NULL,
  finished_at REAL NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS tasks (
  id TEXT PRIMARY KEY,
  attempts INTEGER NOT NULL DEFAULT 0,
  successes REAL NOT NULL DEFAULT 0,
  failures REAL NOT NULL DEFAULT 0,
  recent TEXT NOT NULL DEFAULT '',
  lengths TEXT NOT NULL DEFAULT '[]',
  last_version INTEGER NOT NULL DEFAULT -1,
  unfit TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tasks_set_aside ON tasks (unfit) WHERE unfit <> '';

CREATE TABLE IF NOT EXISTS causes (
  cause TEXT PRIMARY KEY,
  count INTEGER NOT NULL,
  counted_at REAL NOT NULL,
  detail TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS counters (
  name TEXT NOT NULL,
  key TEXT NOT NULL,
  value INTEGER NOT NULL,
  PRIMARY KEY (name, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS step_rewards (step INTEGER PRIMARY KEY, total REAL NOT NULL, count INTEGER NOT NULL);
"""
