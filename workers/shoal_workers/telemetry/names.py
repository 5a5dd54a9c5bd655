"""Names of the metrics that Shoal's services publish; one place, so that dashboards and code cannot drift apart."""

HTTP_REQUESTS = "shoal_http_requests"
HTTP_SECONDS = "shoal_http_request_seconds"

ENVIRONMENT_OCCUPIED_SECONDS = "shoal_environment_occupied_seconds"
ENVIRONMENT_ACTIVE_SECONDS = "shoal_environment_active_seconds"
ENVIRONMENT_EPISODES = "shoal_environment_episodes"
ENVIRONMENT_STEPS = "shoal_environment_steps"
ENVIRONMENT_ERRORS = "shoal_environment_errors"
ENVIRONMENT_SLOTS = "shoal_environment_slots"

BROKER_GRANTS = "shoal_broker_grants"
BROKER_EXPIRIES = "shoal_broker_expiries"
BROKER_QUEUED = "shoal_broker_queued"
BROKER_WAIT_SECONDS = "shoal_broker_wait_seconds"
BROKER_MEMBERS = "shoal_broker_members"
BROKER_SLOTS = "shoal_broker_slots"
