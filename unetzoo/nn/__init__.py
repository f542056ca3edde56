"""The layers that every encoder, decoder and head is made of."""
