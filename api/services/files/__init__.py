"""What jobs leave behind, and their logs."""
