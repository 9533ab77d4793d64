"""What is tested: a lowering, and how it is run. `SUBJECTS` holds them all by name."""

from flexconf.subjects.registry import SUBJECTS as SUBJECTS
from flexconf.subjects.registry import Subject as Subject
from flexconf.subjects.registry import get as get
from flexconf.subjects.registry import require as require
