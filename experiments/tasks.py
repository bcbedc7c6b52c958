"""The problems that a config can name as its `task`."""

from .tagging.task import Tagging
from .task import Task

TASKS: dict[str, type[Task]] = {"tagging": Tagging}
