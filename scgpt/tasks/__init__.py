"""Tasks: what is hidden, what is predicted, what is compared."""
