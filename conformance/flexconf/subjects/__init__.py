"""The subjects of tests: a subject is a lowering and a way to run it. `SUBJECTS` holds all of them by name."""

from flexconf.subjects.registry import SUBJECTS as SUBJECTS
from flexconf.subjects.registry import Subject as Subject
from flexconf.subjects.registry import get as get
from flexconf.subjects.registry import require as require
