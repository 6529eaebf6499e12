# %% [markdown]
# # Watch, listen, ask
#
# Run it from the root of a checkout, as a script (`python examples/watch_and_listen.py [WEIGHTS]`) or cell by cell in
# an editor that knows `# %%`. It renders a few clips, asks about them, and puts a picture of an answer into
# `runs/example`.

# %% Weights: the small model that comes with the project, or a folder that `crab convert` wrote.
import json
import pathlib
import sys

import crab_jax
from data_pipelines.world import write_quickstart_media

WEIGHTS = sys.argv[1] if len(sys.argv) > 1 else "mini"
OUT = pathlib.Path("runs/example")

crab = crab_jax.load(WEIGHTS)

# %% Media, rendered here so that nothing has to be downloaded. Your own files do as well: only paths are passed on.
samples = json.loads(write_quickstart_media(OUT / "media", seed=12).read_text())
truth = json.loads((OUT / "media" / "truth.json").read_text())
clip = {sample["task"]: {k: OUT / "media" / v for k, v in sample.items() if k.endswith("_path")} for sample in samples}
really = {entry["task"]: entry for entry in truth}

# %% What happens, when? `value` is typed, `text` is what the model said word for word.
answer = crab.ask("ave", video=clip["ave"]["video_path"], audio=clip["ave"]["audio_path"])
print(answer.value, "| really:", really["ave"])
print(answer.text)

# %% A question about a video. The sound may be the video's own; here it lies in a file of its own.
answer = crab.ask(
    "avqa",
    video=clip["avqa"]["video_path"],
    audio=clip["avqa"]["audio_path"],
    question="How many of the instruments in the video are sounding?",
)
print(answer.value, "| really:", really["avqa"]["answer"])

# %% Which pixels make the sound? A mask is a NumPy array, True where something sounds.
answer = crab.ask("s4", image=clip["s4"]["image_path"], audio=clip["s4"]["audio_path"])
if answer.mask is None:
    print("no mask:", answer.text)
else:
    print("mask", answer.mask.shape, answer.mask.dtype, f"{answer.mask.mean():.0%} of the picture")

# %% Every answer is a picture, too; in a notebook `answer.picture()` shows itself.
answer.picture().save(OUT / "which_pixels.png")
print(OUT / "which_pixels.png")
