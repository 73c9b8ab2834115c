"""The benchmarks: one module each, found by being here.

A module's `TASKS` are those it defines (`subnetworks.evaluation.task.Task`). Whatever grades an
answer is imported in functions alone, so that an experiment is planned without it.
"""

from subnetworks.core.imports import modules_in
from subnetworks.evaluation.task import Task

TASKS: dict[str, Task] = {
    task.name: task for module in modules_in(__name__).values() for task in module.TASKS
}
