"""Supervised finetuning on conversations."""

from typing import Literal

from subnetworks.training.settings import OfflineSettings


class SftSettings(OfflineSettings):
    """Supervised finetuning; `batch_size` counts conversations."""

    algorithm: Literal["sft"] = "sft"


SETTINGS = SftSettings
