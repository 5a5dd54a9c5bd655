"""All cases of the suite, by area."""

from tests.embedded.conformance.case import Case
from tests.embedded.conformance.cases import applies, builtins, deletions, lists, patches, schemas, watches, writes

CASES: list[Case] = [
    *(each for part in (schemas, writes, patches, applies, lists, watches, deletions, builtins) for each in part.CASES)
]
