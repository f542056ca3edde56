"""Share a model on the Hugging Face Hub, and get it back: ``python examples/hub_round_trip.py MODEL me/nuclei``.

MODEL is a .safetensors file. After ``hf auth login``, or with a token in HF_TOKEN. The repository is made where there
is none, private unless --public is given. HF_ENDPOINT names another Hub than huggingface.co.
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
# All that only you know: what the model was trained on, how well it does, what it has not seen.
card = unetzoo.ModelCard(license=args.license, text="## Limits\n\nTried on one microscope only.")
with tempfile.TemporaryDirectory() as folder:
    unetzoo.save_pretrained(model, folder, card=card)  # config.json, model.safetensors, README.md: look at them first
    pushed = unetzoo.push_to_hub(folder, args.repository, private=not args.public)
print(f"pushed: {pushed.url}")

pulled = unetzoo.from_pretrained(str(pushed))  # owner/name@commit: this very model, whatever is pushed later
assert pulled.config == model.config
torch.testing.assert_close(pulled.state_dict(), model.state_dict(), rtol=0, atol=0)  # bit by bit
print(f'unetzoo.from_pretrained("{pushed}") is the same model, bit by bit')
