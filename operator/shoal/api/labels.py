"""Labels, annotations and names that every part of Shoal agrees on."""

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "shoal"

PREFIX = "rl.shoal.dev/"
"""Of Shoal's own labels, by which it finds its objects; nobody else should write them."""
ROLE = "rl.shoal.dev/role"
POOL = "rl.shoal.dev/pool"
FLEET = "rl.shoal.dev/fleet"
JOB = "rl.shoal.dev/job"
VARIANT = "rl.shoal.dev/variant"
WORKER_GROUP = "rl.shoal.dev/worker-group"

OWNER_UID = "rl.shoal.dev/owner-uid"
"""Label: UID of the Shoal resource behind a pod that another operator makes (its own owner is that operator's)."""

SPEC_HASH = "rl.shoal.dev/spec-hash"
"""Annotation: hash of the object as built, so that an unchanged object is never written again."""

LAID_UNDER = "rl.shoal.dev/laid-under"
"""Annotation of a helper: hash of the placement that it took over, by which one that no node takes is made anew."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's own label: the LocalQueue that a job waits in."""
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
"""Kueue's own label: the WorkloadPriorityClass that orders the job in its queue."""
SETS_HASH = "rl.shoal.dev/pod-sets-hash"
"""Annotation of a Workload: hash of its queue and pod sets, which are fixed while quota is reserved."""

TOKEN_KEY = "token"
"""Key of the bearer token inside a resource's Secret."""
PREVIOUS_TOKEN_KEY = "previous"
"""Key of the token before it, which is taken too for a while after a renewal; empty at other times."""
RENEW_TOKEN = "rl.shoal.dev/renew-token"
"""Annotation by which a user asks for a new token; its value does not matter."""
TOKEN_RENEWED_AT = "rl.shoal.dev/token-renewed-at"
"""Annotation: when the token was last renewed."""
TOKEN_DIGEST = "rl.shoal.dev/token-digest"
"""Annotation: SHA-256 of the token as Shoal drew it, by which an edited one is noticed."""
TOKENS_VARIABLE = "SHOAL_TOKENS"
"""Variable with the folder of a pod's tokens: one folder for each, with the Secret's two keys as files."""
CONFIG_VARIABLE = "SHOAL_CONFIG"
"""Variable with a role's whole configuration as JSON."""
CONFIG_FOLDER_VARIABLE = "SHOAL_CONFIG_FOLDER"
"""In its place, where the configuration is too large for a variable: folder whose files, in order, are the JSON."""
OWN_TOKEN = "own"
"""Folder of the token that opens the pod's own service."""


MAIN = "main"
"""Name of the container that does a role's work, in every pod that Shoal builds; a template's container of this name is
merged over it."""


class Role:
    """The pod roles of the data plane."""

    ENVIRONMENT = "environment"
    BROKER = "broker"
    ENGINE = "engine"
    ENGINE_WORKER = "engine-worker"
    GATEWAY = "gateway"
    DATA = "data"
    AGENT = "agent"
    TRAINER = "trainer"


PORTS = {
    Role.ENVIRONMENT: 8010,
    Role.BROKER: 8001,
    Role.GATEWAY: 8002,
    Role.ENGINE: 8003,
    Role.DATA: 8004,
    Role.AGENT: 8005,
    Role.TRAINER: 8006,
}
"""The port that each role listens on, on its pod's own address.

A member does not take 8000: that is the port of an OpenEnv image, which may run beside it in the same pod.
"""
