"""The readers of media, in one place."""

from data_pipelines.audio import RATE, read_audio
from data_pipelines.image import (
    PALETTE,
    colors_from_labels,
    labels_from_colors,
    read_image,
    read_mask,
    read_semantic_mask,
)
from data_pipelines.media import MediaError
from data_pipelines.video import MediaInfo, frame_indices, probe, read_video

__all__ = [
    "PALETTE",
    "RATE",
    "MediaError",
    "MediaInfo",
    "colors_from_labels",
    "frame_indices",
    "labels_from_colors",
    "probe",
    "read_audio",
    "read_image",
    "read_mask",
    "read_semantic_mask",
    "read_video",
]
