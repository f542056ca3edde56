"""The layers of which all encoders, decoders and heads are made."""
