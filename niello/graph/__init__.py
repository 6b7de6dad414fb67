"""Level 1: operations and tensors, as the user described them."""
