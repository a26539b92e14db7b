"""What calls answer, a noun a file: records that a remote client can read without the fleet's code."""
