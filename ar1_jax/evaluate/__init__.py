"""What a policy is worth: open-loop tables with intervals, beside those who do not look."""
