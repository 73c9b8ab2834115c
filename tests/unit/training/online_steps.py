"""An on-policy trainer's process that also writes what each step learns from; not a test."""

import json
import os

from subnetworks.training.runtime import online_main


def main():
    register = online_main._register

    def recording():
        register()
        from subnetworks.training.runtime.online_trainer import Trainer

        update = Trainer.update

        def recorded(self, batch, metrics, timing):
            update(self, batch, metrics, timing)
            rows = {
                name: [row.tolist() for row in batch[name].unbind()]
                for name in ("prompts", "responses", "advantages")
            }
            found = {name: batch[name].tolist() for name in ("score", "group")}
            measured = {name: value for name, value in metrics.items() if "reward_model" in name}
            with open(os.environ["RECORDED"], "a") as file:
                file.write(json.dumps({**rows, **found, **measured}) + "\n")

        Trainer.update = recorded

    online_main._register = recording
    online_main.main()
