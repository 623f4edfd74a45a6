"""Where this library meets others: each module needs what its name says, and no other part of the library does."""
