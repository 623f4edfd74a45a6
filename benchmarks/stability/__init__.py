"""What the policies of ``app/stability`` cost, beside the libraries of others, in one run."""
