"""Loaded as `sitecustomize` by every Python of a test's stages: see `points.py`."""

import atexit
import json
import os
import signal
import sys
import time


def _install(asked):
    points = asked["points"]
    stage = sys.orig_argv[1:3] == ["-m", "subnetworks"]
    line = " ".join(sys.orig_argv)

    def reach(at, fits):
        for point in points:
            if point["at"] == at and fits(point["what"]):
                try:
                    os.close(os.open(point["mark"], os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue  # once is enough
                _act(point["act"], asked["go"])

    def within(what):
        return stage and what in line

    def noticed(function):
        def renamed(source, target, *arguments, **options):
            name = os.fsdecode(target)
            reach("before", lambda what: name.endswith("/" + what))
            function(source, target, *arguments, **options)
            reach("after", lambda what: name.endswith("/" + what))

        return renamed

    os.replace, os.rename = noticed(os.replace), noticed(os.rename)
    atexit.register(reach, "exit", within)
    reach("start", within)


def _act(act, go):
    group = int(os.environ["SUBNETWORKS_TEST_GROUP"])
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "kill all":
        os.killpg(group, signal.SIGKILL)
        time.sleep(3600)  # a process of another group, until its guard ends it
    if act == "kill snakemake":
        os.kill(group, signal.SIGKILL)
    begun = time.monotonic()
    while not os.path.exists(go):
        if time.monotonic() - begun > 3600:  # whoever was to let it go is gone
            os._exit(1)
        time.sleep(0.02)


if "SUBNETWORKS_TEST_POINTS" in os.environ:
    _install(json.loads(os.environ["SUBNETWORKS_TEST_POINTS"]))
