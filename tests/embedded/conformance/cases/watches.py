"""Watches: where they begin, what they tell, how they end."""

from tests.embedded.conformance.case import MERGE, TABLE, WATCH, Answer, Case, Step, case
from tests.embedded.conformance.cases.common import GADGETS, MAPS, config_map, gadget, marked

AREA = "watches"
START = {"version": "metadata.resourceVersion"}
INITIAL = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
NONE = "a watch from a version that is none is refused with 400; kube-apiserver fails with 500"
MADE = [
    Step("POST", GADGETS, marked("a", labels={"app": "a"}), save=START),
    Step("POST", GADGETS, marked("b", labels={"app": "b"})),
    Step("PATCH", f"{GADGETS}/a", {"spec": {"size": 4}}, MERGE),
    Step("PATCH", f"{GADGETS}/b", {"metadata": {"labels": {"app": "a"}}}, MERGE),
    Step("PATCH", f"{GADGETS}/a", {"metadata": {"labels": {"app": "c"}}}, MERGE),
    Step("DELETE", f"{GADGETS}/b"),
]


def kinds(answer: Answer) -> object:
    """Types and names, and of bookmarks whether they end the initial events."""
    if not isinstance(answer.body, list):
        return answer.body.get("reason"), answer.body.get("message")
    return [_told(event["type"], event["object"]) for event in answer.body]


def _told(type_: str, body: dict) -> object:  # type: ignore[type-arg]
    if type_ == "ERROR":
        return type_, body["code"], body.get("reason"), body.get("message")
    if type_ == "BOOKMARK":
        return type_, body["kind"], body["metadata"].get("annotations"), bool(body["metadata"]["resourceVersion"])
    return type_, body["metadata"]["name"]


CASES: list[Case] = [
    case(
        AREA,
        "from a version",
        *MADE,
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion={{version}}", events=5),
        Step(WATCH, f"{GADGETS}?watch=1&resourceVersion={{version}}&labelSelector=app%3Da", events=4, view=kinds),
        Step(
            WATCH,
            f"{GADGETS}?watch=true&resourceVersion={{version}}&fieldSelector=metadata.name%3Db",
            events=3,
            view=kinds,
        ),
    ),
    case(
        AREA,
        "from the start, and from any version (0)",
        *MADE[:2],
        Step(WATCH, f"{GADGETS}?watch=true", events=2),
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion=0", events=2),
        Step(
            WATCH,
            GADGETS.replace("v1/", "v1/watch/"),
            events=2,
            view=kinds,
            differs="the deprecated paths below /watch/ are not served",
        ),
    ),
    case(
        AREA,
        "as a list (sendInitialEvents)",
        *MADE[:2],
        Step(WATCH, f"{GADGETS}?watch=true&{INITIAL}", events=3, view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&{INITIAL}&resourceVersion={{version}}", events=3, view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&{INITIAL}&resourceVersion=0", events=3, view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&{INITIAL}&labelSelector=app%3Db", events=2, view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&sendInitialEvents=true", view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&sendInitialEvents=true&resourceVersionMatch=Exact", view=kinds),
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersionMatch=NotOlderThan", view=kinds),
        Step("GET", f"{GADGETS}?sendInitialEvents=true", view=lambda answer: answer.body.get("message")),
    ),
    case(
        AREA,
        "from now (sendInitialEvents=false)",
        *MADE[:2],
        Step(
            WATCH,
            f"{GADGETS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
            "&allowWatchBookmarks=true&timeoutSeconds=1",
            view=lambda answer: [each for each in kinds(answer) if each[0] != "BOOKMARK"],  # type: ignore[attr-defined]
        ),
    ),
    case(
        AREA,
        "they end after timeoutSeconds",
        *MADE[:2],
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion={{version}}&timeoutSeconds=1", view=kinds),
    ),
    case(
        AREA,
        "of tables",
        *MADE[:2],
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion=0", accept=TABLE, events=2),
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion={{version}}", accept=TABLE, events=1),
    ),
    case(
        AREA,
        "a version that is none",
        Step("POST", MAPS, config_map("m")),
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion=nonsense", view=kinds, differs=NONE),
        Step(WATCH, f"{GADGETS}?watch=true&resourceVersion=-1", view=kinds, differs=NONE),
    ),
    case(
        AREA,
        "of built-in kinds",
        Step("POST", MAPS, config_map("m", {"a": "b"}, labels={"t": "x"}), save=START),
        Step("PATCH", f"{MAPS}/m", {"data": {"c": "d"}}, MERGE),
        Step("DELETE", f"{MAPS}/m"),
        Step(WATCH, f"{MAPS}?watch=true&resourceVersion={{version}}&labelSelector=t%3Dx", events=2),
        Step("POST", GADGETS, gadget()),
    ),
]
