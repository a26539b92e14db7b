"""The functions of a gateway: which it is to run, where they come from, and what they are fed and give back."""
