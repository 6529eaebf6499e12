"""A generated audio-visual world: a stage, performers with a look and a sound, and exact ground truth.

    stage = Stage(Scene((Performer("violin", place=0.2), Performer("drum", place=0.8, heard=((2, 7),))), seed=3))
    clip = stage.clip()               # frames uint8 [T H W 3], masks bool [K T H W], wave float32 [n 2]
    write_quickstart_media(folder)    # files and samples.json for the nine tasks
    build.build(folder, clips=100, seed=0)  # thirteen data sets, each in its own layout

How things look and sound:
paint      shapes as signed distances, and the light on them
looks      what every kind looks like in a pose
sound      music, timbres, the room
voices     what every kind sounds like, and what it plays
kinds      the table of kinds: names in the vocabularies, words about them
scenery    what stands about
hall, park what is behind
sprites    painted patches, afresh or from a store
stage      scenes and their rendering: pictures, masks, sound, events

What is asked about them:
casting    who is in a scene, where and when; what training never shows
phrases    sentences in many wordings
events     AVE, LLP (avvp), VALOR (avcap)
concerts   MUSIC-AVQA, with its `questions`
stills     AVSBench (s4, ms3, avss) and its boxes (arig)
expressions Ref-AVS
pretraining pictures, mute videos, sounds, masks

How it becomes files:
files      MP4, MP3, WAV, JPEG, PNG
orders     one clip to be made
layouts    annotation files of every data set
build      all of it, in processes, continued after an interrupt
baselines  what one sense alone reaches, with its `guesses`
quickstart one sample for each of the nine tasks
"""

from data_pipelines.world.kinds import KINDS, Kind
from data_pipelines.world.quickstart import write_quickstart_media
from data_pipelines.world.stage import Clip, Event, Performer, Prop, Scene, Shot, Stage

__all__ = [
    "KINDS",
    "Clip",
    "Event",
    "Kind",
    "Performer",
    "Prop",
    "Scene",
    "Shot",
    "Stage",
    "write_quickstart_media",
]
