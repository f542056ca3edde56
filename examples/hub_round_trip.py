"""Share a model on the Hugging Face Hub, and get it back: ``python examples/hub_round_trip.py MODEL me/nuclei``.

MODEL is a .safetensors file. Log in first by ``hf auth login``, or set a token in HF_TOKEN. The repository is created
if there is none, as a private one unless --public is given. HF_ENDPOINT sets a Hub other than huggingface.co.
"""

import argparse
import tempfile

import torch

import unetzoo

parser = argparse.ArgumentParser(description="Push a model to the Hub, pull it, and compare.")
parser.add_argument("model")
parser.add_argument("repository", help="owner/name")
parser.add_argument("--public", action="store_true")
parser.add_argument("--license", help='as the Hub writes it, such as "mit" or "cc-by-4.0"')
args = parser.parse_args()

model = unetzoo.load(args.model)
# Facts that only you know: the training data, the scores, the limits of the model.
card = unetzoo.ModelCard(license=args.license, text="## Limits\n\nTried on one microscope only.")
with tempfile.TemporaryDirectory() as folder:
    unetzoo.save_pretrained(model, folder, card=card)  # config.json, model.safetensors, README.md: look at them first
    pushed = unetzoo.push_to_hub(folder, args.repository, private=not args.public)
print(f"pushed: {pushed.url}")

pulled = unetzoo.from_pretrained(str(pushed))  # owner/name@commit: exactly this model, whatever is pushed later
assert pulled.config == model.config
torch.testing.assert_close(pulled.state_dict(), model.state_dict(), rtol=0, atol=0)  # bit by bit
print(f'unetzoo.from_pretrained("{pushed}") is the same model, bit by bit')
