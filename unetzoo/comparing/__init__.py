"""Networks side by side: what they cost, counted or measured."""
