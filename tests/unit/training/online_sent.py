"""An on-policy trainer's process that also keeps what its sampler is sent; not a test.

`sent_N.safetensors` in the folder $SENT is what it has in the N-th step's place, 0 the start's.
"""

import os
from pathlib import Path

from safetensors.torch import save_file

from subnetworks.training.rollout.one_process import OneProcess
from subnetworks.training.runtime import online_main


def main():
    send, load = OneProcess.send_weights, OneProcess.load_weights
    sent = {}

    async def loading(self, named):
        sent.update({name: tensor.clone().contiguous() for name, tensor in named})
        await load(self, named)

    def sending(self, step):
        send(self, step)
        save_file(sent, Path(os.environ["SENT"], f"sent_{step}.safetensors"))
        sent.clear()

    OneProcess.send_weights, OneProcess.load_weights = sending, loading
    online_main.main()
