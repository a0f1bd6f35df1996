"""What measures floor and ceiling of a score."""
