"""The answers of calls, one noun per file: records that a remote client can read without the fleet's code."""
