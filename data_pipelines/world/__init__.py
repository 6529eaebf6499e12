"""A generated audio-visual world: a stage, performers with a look and a sound, and exact ground truth.

    stage = Stage(Scene((Performer("violin", place=0.2), Performer("drum", place=0.8, heard=((2, 7),))), seed=3))
    clip = stage.clip()               # frames uint8 [T H W 3], masks bool [K T H W], wave float32 [n 2]
    write_quickstart_media(folder)    # files and samples.json for the nine tasks

paint      shapes as signed distances, and the light on them
looks      what every kind looks like in a pose
sound      music, timbres, the room
kinds      the table of kinds: look, timbre, names in the vocabularies
hall       the empty stage and its lights
stage      scenes and their rendering: pictures, masks, sound, events
files      MP4, MP3, WAV, JPEG, PNG
quickstart one sample for each of the nine tasks
"""

from data_pipelines.world.kinds import KINDS, Kind
from data_pipelines.world.quickstart import write_quickstart_media
from data_pipelines.world.stage import Clip, Event, Performer, Scene, Shot, Stage

__all__ = ["KINDS", "Clip", "Event", "Kind", "Performer", "Scene", "Shot", "Stage", "write_quickstart_media"]
