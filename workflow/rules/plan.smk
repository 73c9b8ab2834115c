"""What a dry run says at its end: hours and gigabytes of the jobs that it plans, estimated."""

import atexit

from subnetworks.experiment import estimates


def say_estimates():
    """Print those of the jobs that are to run; `subnetworks plan` prints those of an experiment."""
    if not workflow.dryrun:
        return
    planned = {
        (job.rule.name, name)
        for job in (
            workflow.dag.needrun_jobs(exclude_finished=False) if workflow.dag is not None else ()
        )
        for name in job.wildcards
    }
    found = [
        one
        for one in estimates.estimates(EXPERIMENT, CONFIGURATION.machine, LOCKED)
        if (one.rule, one.name) in planned
    ]
    words = estimates.text(found, EXPERIMENT.name, CONFIGURATION.accelerator, CONFIGURATION.machine)
    print(words, end="", file=sys.stderr)


# Snakemake has no hook for dry runs, and knows that it is one only once this is read.
atexit.register(say_estimates)
