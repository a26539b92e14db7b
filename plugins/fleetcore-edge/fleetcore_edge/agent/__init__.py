"""The agent's own update: what runs, what is on trial, and how a new release comes."""
