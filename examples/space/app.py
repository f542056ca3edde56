"""A Hugging Face Space: the page of ``unetzoo serve`` for a model of the Hub."""

import os
import time

from unetzoo.serving import serve

MODEL = os.environ.get("MODEL", "owner/name")
"""Write your model's name here, or set the variable MODEL in the settings of the Space."""
PORT = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))

NAMES = os.environ.get("SPACE_HOST", "").split()
"""Host names under which visitors reach the Space, such as "me-nuclei.hf.space"."""

# A Space is reached from outside its container, so 127.0.0.1 does not work.
with serve(MODEL, host="0.0.0.0", port=PORT, names=NAMES) as address:
    print(f"{MODEL}: {address}", flush=True)
    while True:
        time.sleep(3600)
